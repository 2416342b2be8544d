"""Loading published and own weights, weights only: nothing in a checkpoint file is ever executed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from baselines.checkpoint_files import CheckpointError, Sealed, damaged, read_checkpoint
from baselines.gaussrender import VoxelToGaussians
from baselines.recipe import CheckpointNames

# Parts of a key that stand only where a model is trained with rendering: GaussRender's decoder and background.
RENDERING_KEYS = (
    "renderer.bg_color",
    "renderer_prep.",
    *(f"{owner}.{part}." for owner in ("aggregator", "head", "decoder") for part in ("renderer", "renderer_prep")),
)

# Names in mmdetection and mmdetection3d, those of FCOS3D's detector say, -> names here.
_PREFIXES = {"module.": "", "backbone.": "img_backbone.", "neck.": "img_neck."}


class CheckpointMismatch(CheckpointError):
    """A checkpoint of another model. The message counts what does not fit and names the first ones, ``names`` has them all.

    names  what is wrong ("missing in the file", ...) -> parameter names, in the order of the model or the file
    """

    def __init__(self, message: str, names: Mapping[str, list[str]]) -> None:
        super().__init__(message)
        self.names = names


# Where weights lie in a file, in the order in which they are looked for: averaged ones only where there are no others (mmengine
# keeps those that are evaluated under "state_dict"), and what wraps the names of all parameters.
_STATES = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
_AVERAGED = ("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema", "params_ema")
_WRAPPERS = ("module.", "model.", "ema_model.", "model_ema.", "_orig_mod.", "net.", "network.")
_COUNTERS = ("steps", "n_averaged")  # of averaging, beside the averages


def read_state_dict(path: str | Path, names: CheckpointNames | None = None) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU, names translated to ours.

    Understood are a bare state dict and a dict that holds one under the names in ``_STATES`` (GaussRender, mmengine, mmdet3d,
    Lightning, TPVFormer) or, for want of those, averaged weights under ``_AVERAGED``; "module." and its like before all
    names are taken off. The rest, such as the optimizer's state, is ignored. ``names`` are what published files of a baseline
    call otherwise; of a folder, all of ``names.files``. Raises CheckpointError for a file that is missing, is no checkpoint, asks
    for anything but tensors and plain data, or holds NaN or infinite weights.
    """
    path, names = Path(path), names or CheckpointNames()
    return _folder(path, names) if path.is_dir() else _file(path, names)


def _file(path: Path, names: CheckpointNames, prefix: str | None = None) -> dict[str, Tensor]:
    """The tensors of one file; ``prefix``: of one in a folder, what stands before its names, which are not translated."""
    try:
        return _state_dict(path, names, prefix)
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 - names that are numbers, tensors of kinds that are not asked for
        raise damaged(path, error) from error


def _folder(path: Path, names: CheckpointNames) -> dict[str, Tensor]:
    """The tensors of all files of a folder."""
    if not names.files:
        raise CheckpointError(f"checkpoint '{path}' is a folder, and this model's are single files: name one that lies in it")
    files = {path / f"{stem}.pth": prefix for stem, prefix in names.files.items()}
    if missing := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(
            f"checkpoint '{path}' is a folder without {', '.join(missing)}: it must hold {', '.join(file.name for file in files)}"
        )
    parts = [_file(file, names, prefix) for file, prefix in files.items()]
    return {name: value for part in parts for name, value in part.items()}


def _state_dict(path: Path, names: CheckpointNames, prefix: str | None) -> dict[str, Tensor]:
    content = read_checkpoint(path)
    found = content
    for _ in range(3):  # {"model": {"state_dict": ...}}
        keys = (*_STATES, *_AVERAGED) if isinstance(found, Mapping) else ()
        found = next((found[name] for name in keys if isinstance(found.get(name), Mapping)), found)
    if kind := content.kind if isinstance(content, Sealed) else _sealed_model(found):
        raise CheckpointError(
            f"checkpoint '{path}' holds no state dict but a whole model, of the class {kind}: load it where that class is and "
            "save torch.save({'state_dict': model.state_dict()}, FILE)"
        )
    if not isinstance(found, Mapping) or not any(isinstance(v, (Tensor, np.ndarray)) for v in found.values()):
        has = f" (its entries: {', '.join(str(key)[:40] for key in list(content)[:12])})" if isinstance(content, Mapping) else ""
        raise CheckpointError(f"checkpoint '{path}' holds no state dict (a mapping of names to tensors){has}")
    state = {}
    for name, value in _unwrapped(found).items():
        if prefix is not None and isinstance(value, (int, float)):
            continue
        tensor = _as_tensor(value)
        if tensor is None or not isinstance(name, str):
            raise CheckpointError(
                f"checkpoint '{path}': entry {str(name)[:80]!r} of its state dict is a {_kind(value)}, not a tensor; save the "
                "state dict alone, or under the key 'state_dict': torch.save({'state_dict': model.state_dict()}, FILE)"
            )
        state[_renamed(name, names) if prefix is None else prefix + name] = tensor
    state = {name: value for name, value in state.items() if not name.startswith(names.unused)}
    for name, value in state.items():
        if (value.is_floating_point() or value.is_complex()) and not torch.isfinite(value).all():
            raise CheckpointError(
                f"checkpoint '{path}': {name} has NaN or infinite values; take a checkpoint from before the training diverged"
            )
    return state


def _sealed_model(content: Any) -> str:
    """The class of what stands where the weights should, or ""."""
    entries = [content.get(name) for name in (*_STATES, *_AVERAGED)] if isinstance(content, Mapping) else []
    return next((entry.kind for entry in entries if isinstance(entry, Sealed)), "")


def _kind(value: Any) -> str:
    return value.kind if isinstance(value, Sealed) else type(value).__name__


def _as_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (np.ndarray, np.number)) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
    return None


def _unwrapped(state: Mapping[str, Any]) -> dict[str, Any]:
    """Without what stands before all names, nor counters of averaging."""
    named = dict(state)
    while True:
        weights = {name: value for name, value in named.items() if name not in _COUNTERS}
        wrapper = next((w for w in _WRAPPERS if weights and all(str(name).startswith(w) for name in weights)), None)
        if wrapper is None:
            return named
        named = {name.removeprefix(wrapper): value for name, value in weights.items()}


def _renamed(name: str, names: CheckpointNames) -> str:
    for old, new in {**_PREFIXES, **names.prefixes}.items():
        if name.startswith(old):
            name = new + name[len(old) :]
    return name.replace(".conv2_offset.", ".conv2.conv_offset.")


# What stands for a data set's range: reference points of attention, RenderOcc's scene, GaussianOcc's box.
_RANGES = (".ref_", "nerf_head.", "depth.xyz_")


def _is_range(name: str) -> bool:
    return any(part in name for part in _RANGES)


def load_released(model: nn.Module, path: str | Path, allow_missing_renderer: bool = False) -> list[str]:
    """Load a released (or own) checkpoint into ``model``, all or nothing.

    Every name and shape must agree, and reference points and scenes in the file must be those of the model's range, as two
    data sets' have the same shapes (valeoai/GaussRender src/utils/setup.py:127-173; models published by
    wzzheng/TPVFormer load too, which prefix ``tpv_``). ``allow_missing_renderer`` accepts a checkpoint trained without
    rendering for a model that has it; its decoder keeps its initial weights. A decoder in the file that the model's options
    do not read is left out.

    Returns the names left at their initial values. Raises CheckpointMismatch with every name that does not fit, and
    CheckpointError for a file that cannot be read.
    """
    unread = tuple(
        f"{name}.decoder." for name, m in model.named_modules() if isinstance(m, VoxelToGaussians) and m.decoder is None
    )
    own = model.state_dict()
    named: CheckpointNames = getattr(model, "checkpoint_names", CheckpointNames())
    needed = {stem: prefix for stem, prefix in named.files.items() if any(name.startswith(prefix) for name in own)}
    state = read_state_dict(path, replace(named, files=needed))
    state = {name: value for name, value in state.items() if not name.startswith(unread)}
    missing = [name for name in own if name not in state]
    excused = [n for n in missing if n.startswith(RENDERING_KEYS)] if allow_missing_renderer else []
    problems = {
        "missing in the file": [n for n in missing if n not in excused],
        "unknown to the model": [n for n in state if n not in own],
        "of another shape": [
            f"{n} {list(v.shape)}, the model has {list(own[n].shape)}"
            for n, v in state.items()
            if n in own and v.shape != own[n].shape
        ],
        "of another kind": [
            f"{n} {v.dtype}, the model has {own[n].dtype}"
            for n, v in state.items()
            if n in own and v.is_floating_point() != own[n].is_floating_point()
        ],
    }
    # Points in 0..1; a file of half precision has 8 bits of them at least.
    near = {n: 1e-5 if v.dtype.itemsize >= 4 else 4e-3 for n, v in state.items()}
    if not any(problems.values()):
        problems["made for another range"] = [
            n for n, v in state.items() if _is_range(n) and not torch.allclose(v.to(own[n].dtype), own[n].cpu(), atol=near[n])
        ]
        problems["too large for the model's precision"] = [
            n for n, v in state.items() if v.is_floating_point() and not torch.isfinite(v.to(own[n].dtype)).all()
        ]
    if any(problems.values()):
        raise _mismatch(Path(path), problems)
    rounded = [n for n, v in state.items() if _is_range(n) and near[n] > 1e-5]  # the model has these points exactly
    model.load_state_dict(state | {n: own[n] for n in (*excused, *rounded)}, strict=True)
    _mark_initialised(model)
    return excused


def load_what_fits(model: nn.Module, path: str | Path) -> list[str]:
    """Start a model from another one's weights: everything of the same name and shape is taken.

    Returns the names of what keeps its initial values. Raises CheckpointMismatch if nothing fits.
    """
    state, own = read_state_dict(path, getattr(model, "checkpoint_names", None)), model.state_dict()
    loaded = {n: v for n, v in state.items() if n in own and v.shape == own[n].shape}
    if not loaded:
        raise _mismatch(Path(path), {"missing in the file": list(own), "unknown to the model": list(state)})
    model.load_state_dict(loaded, strict=False)
    _mark_initialised(model)
    return [name for name in own if name not in loaded]


def _mismatch(path: Path, problems: Mapping[str, list[str]]) -> CheckpointMismatch:
    parts = [f"checkpoint '{path}' does not fit the model."]
    for what, names in problems.items():
        if names:
            more = f" and {len(names) - 12} more" if len(names) > 12 else ""
            parts.append(f"{len(names)} {what}: {', '.join(names[:12])}{more}.")
    lost = problems["missing in the file"]
    if lost and all(n.startswith(RENDERING_KEYS) for n in lost):
        parts.append("It was trained without rendering: take the model (the row) without GaussRender.")
    elif any(n.startswith(RENDERING_KEYS) for n in problems["unknown to the model"]):
        parts.append("It was trained with rendering: take the model (the row) with GaussRender.")
    return CheckpointMismatch(" ".join(parts), {what: names for what, names in problems.items() if names})


def load_fcos3d_pretrain(model: nn.Module, path: str | Path) -> list[str]:
    """Start backbone and neck from FCOS3D's detector (``r101_dcn_fcos3d_pretrain.pth``).

    The backbone must be there completely. Of the neck whatever has the same shape is taken: the released code tries a
    strict load first, in which PyTorch copies all matching tensors before it reports the others, so that a neck of 256
    channels does start from FCOS3D's although the code means to leave it out (valeoai/GaussRender
    src/utils/setup.py:163-172). The detector's head is ignored.

    Returns the names that were loaded. Raises CheckpointError if the backbone is incomplete or of another shape.
    """
    state = {n: v for n, v in read_state_dict(path).items() if n.startswith(("img_backbone.", "img_neck."))}
    return _load_pretrain(model, path, state, whole="img_backbone.")


def load_maskdino_pretrain(model: nn.Module, path: str | Path) -> list[str]:
    """Start Symphonies' image network from MaskDINO (``maskdino_r50_50e_300q_panoptic_pq53.0.pth``).

    Its backbone and pixel decoder must be there completely; its predictor is ignored (hustvl/Symphonies
    ssc_pl/models/encoders/mmdet_wrapper.py:26-33).

    Returns the names that were loaded. Raises CheckpointError if they are incomplete or of another shape.
    """
    state = {
        f"encoder.model.{name.removeprefix('img_')}": value
        for name, value in read_state_dict(path).items()
        if name.startswith(("img_backbone.", "panoptic_head.pixel_decoder."))
    }
    return _load_pretrain(model, path, state, whole="encoder.model.")


# Parts of a block in timm's EfficientNet -> in mmdet's; blocks of the first stage, which widens nothing, have their own names.
_BLOCK = {
    "conv_pw.": "expand_conv.conv.",
    "bn1.": "expand_conv.bn.",
    "conv_dw.": "depthwise_conv.conv.",
    "bn2.": "depthwise_conv.bn.",
    "se.conv_reduce.": "se.conv1.conv.",
    "se.conv_expand.": "se.conv2.conv.",
    "conv_pwl.": "linear_conv.conv.",
    "bn3.": "linear_conv.bn.",
}
_FIRST_BLOCK = _BLOCK | {"bn1.": "depthwise_conv.bn.", "conv_pw.": "linear_conv.conv.", "bn2.": "linear_conv.bn."}
_AROUND_BLOCKS = {"conv_stem.": "0.conv.", "bn1.": "0.bn.", "conv_head.": "6.conv.", "bn2.": "6.bn."}
_IN_BLOCK = re.compile(r"blocks\.([0-6])\.(\d+)\.(.+)")
_LAYERS = (1, 2, 3, 4, 4, 5, 5)  # of mmdet's, by timm's stage: two of the same stride are one
_LATER_HALVES = (4, 6)


def load_efficientnet_pretrain(model: nn.Module, path: str | Path) -> list[str]:
    """Start MonoScene's image network from an EfficientNet of timm or gen-efficientnet-pytorch
    (``tf_efficientnet_b7_ns-1dbc32de.pth``), which must be there completely; its classifier is ignored.

    Returns the names that were loaded. Raises CheckpointError if it is incomplete or of another shape.
    """
    given = read_state_dict(path)
    places = {name: (int(m[1]), int(m[2]), m[3]) for name in given if (m := _IN_BLOCK.fullmatch(name))}
    blocks = Counter(stage for stage, _ in {place[:2] for place in places.values()})
    state = {}
    for name, value in given.items():
        place, part, names = "", name, _AROUND_BLOCKS
        if name in places:
            stage, number, part = places[name]
            number += blocks[stage - 1] if stage in _LATER_HALVES else 0
            place, names = f"{_LAYERS[stage]}.{number}.", _BLOCK if stage else _FIRST_BLOCK
        for old, new in names.items():
            if part.startswith(old):
                state[f"encoder.encoder.layers.{place}{new}{part.removeprefix(old)}"] = value
    return _load_pretrain(model, path, state, whole="encoder.encoder.")


def load_bevdet_pretrain(model: nn.Module, path: str | Path) -> list[str]:
    """Start a lift-splat model from a detector of BEVDet's family (RenderOcc: ``bevdet-stbase-4d-stereo-512x1408-cbgs.pth``).

    Backbone and neck must be there completely. Of the rest whatever has the same name and shape is taken, as mmcv does: with
    other depths and a volume in place of the detector's plane that is the depth network's first part.

    Returns the names that were loaded. Raises CheckpointError if backbone or neck are incomplete or of another shape.
    """
    return _load_pretrain(model, path, read_state_dict(path), whole=("img_backbone.", "img_neck."))


def load_resnet_pretrain(model: nn.Module, path: str | Path) -> list[str]:
    """Start a backbone that is a plain ResNet from torchvision's (``resnet50-0676ba61.pth``), which must be there completely; its
    classifier is ignored.

    Returns the names that were loaded. Raises CheckpointError if it is incomplete or of another shape.
    """
    state = {f"img_backbone.{name}": value for name, value in read_state_dict(path).items()}
    return _load_pretrain(model, path, state, whole="img_backbone.")


def load_gaussianocc_pretrain(model: nn.Module, path: str | Path) -> list[str]:
    """Start GaussianOcc's image network from torchvision's ResNet-101 (``resnet101-63fe2227.pth``), all but its last stage, which
    must be there completely.

    Returns the names that were loaded. Raises CheckpointError if it is incomplete or of another shape.
    """
    places = {
        "conv1.": "backbone.0.",
        "bn1.": "backbone.1.",
        "layer1.": "backbone.4.",
        "layer2.": "backbone.5.",
        "layer3.": "layer3.",
    }
    state = {
        f"encoder.{there}{name.removeprefix(here)}": value
        for name, value in read_state_dict(path).items()
        for here, there in places.items()
        if name.startswith(here)
    }
    return _load_pretrain(model, path, state, whole=("encoder.backbone.", "encoder.layer3."))


def load_gaussianocc_pose(model: nn.Module, path: str | Path) -> list[str]:
    """Start a model's ``pose_network`` (``baselines.photometric.pose.PoseNetwork``) from GaussianOcc's first stage: ``path`` is
    its ``pose_encoder.pth``, beside which ``pose.pth`` lies. Both must be there completely; the encoder's classifier is ignored.

    Returns the names that were loaded. Raises CheckpointError if a file is missing, incomplete or of another shape.
    """
    encoder = Path(path)
    files = {"pose_encoder": encoder, "pose": encoder.with_name("pose.pth")}
    state = {
        f"pose_network.{module}.{name}": value
        for module, file in files.items()
        for name, value in read_state_dict(file).items()
        if not name.startswith(("encoder.fc.", "dummy"))
    }
    return _load_pretrain(model, encoder, state, whole="pose_network.")


def _load_pretrain(model: nn.Module, path: str | Path, state: Mapping[str, Tensor], whole: str | tuple[str, ...]) -> list[str]:
    """Load what fits; CheckpointError unless that is everything below ``whole``. Returns the names loaded."""
    own = model.state_dict()
    loaded = {n: v for n, v in state.items() if n in own and v.shape == own[n].shape}
    counters = "num_batches_tracked"  # absent from files of old PyTorch versions, and unused
    lost = [n for n in own if n.startswith(whole) and not n.endswith(counters) and n not in loaded]
    if lost:
        raise _mismatch(Path(path), {"missing in the file": lost, "unknown to the model": []})
    model.load_state_dict(loaded, strict=False)
    _mark_initialised(model)
    return list(loaded)


def _mark_initialised(model: nn.Module) -> None:
    """Keep mmengine's Runner, which initialises models before training, from overwriting loaded weights."""
    for module in model.modules():
        if isinstance(module, BaseModule):
            module.is_init = True
