"""Loading published and own weights, weights only: nothing in a checkpoint file is ever executed."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from torch import Tensor, nn

from baselines.gaussrender import VoxelToGaussians

# Parts of a key that stand only where a model is trained with rendering: GaussRender's decoder and background.
RENDERING_KEYS = (
    "renderer.bg_color",
    *(f"{owner}.{part}." for owner in ("aggregator", "head", "decoder") for part in ("renderer", "renderer_prep")),
)

# Names in the original TPVFormer, SurroundOcc and Symphonies (saved by Lightning) releases and in mmdet3d's FCOS3D -> names
# here.
_PREFIXES = {
    "module.": "",
    "model.encoder.": "encoder.",
    "model.decoder.": "decoder.",
    "tpv_head.": "head.",
    "tpv_aggregator.": "aggregator.",
    "pts_bbox_head.": "head.",
    "backbone.": "img_backbone.",
    "neck.": "img_neck.",
}


# Of MaskDINO's training; Symphonies' files have it and no use for it.
_CRITERION = "encoder.model.panoptic_head.criterion."


class CheckpointError(ValueError):
    """A checkpoint file that is absent, unreadable, unsafe or of another model."""


class CheckpointMismatch(CheckpointError):
    """A checkpoint of another model. The message counts what does not fit and names the first ones, ``names`` has them all.

    names  what is wrong ("missing in the file", ...) -> parameter names, in the order of the model or the file
    """

    def __init__(self, message: str, names: Mapping[str, list[str]]) -> None:
        super().__init__(message)
        self.names = names


def _history_method(owner: object, name: str) -> Any:
    """What ``getattr`` may do in a checkpoint: name one of the four statistics of mmengine's loss history."""
    if owner is not HistoryBuffer or name not in ("min", "max", "current", "mean"):
        raise pickle.UnpicklingError(f"GLOBAL getattr of {name!r} is not allowed in a checkpoint")
    return getattr(owner, name)


def safe_globals() -> list[Any]:
    """What mmengine's Runner writes into its checkpoints beyond tensors: its loss histories, and no more.

    For ``torch.serialization.add_safe_globals`` or ``safe_globals``. A history is pickled with references to its own
    methods by way of ``getattr``, for which a stand-in is registered that knows these methods only.
    """
    reconstruct = np.empty(0).__reduce__()[0]  # its module's name differs between numpy 1 and 2
    dtypes = [type(np.dtype(kind)) for kind in (np.float64, np.int64)]
    return [HistoryBuffer, reconstruct, np.ndarray, np.dtype, *dtypes, (_history_method, "builtins.getattr")]


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU, names translated to ours.

    Understood are a bare state dict and a dict with one under "state_dict" (GaussRender, mmengine, mmdet3d, Lightning) or
    "model"; the rest, such as the optimizer's state, is ignored. Raises CheckpointError for a file that is missing, is
    no checkpoint, or asks for anything but tensors and plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint '{path}' does not exist")
    if path.stat().st_size < 1024 and path.read_bytes().startswith(b"version https://git-lfs"):
        raise CheckpointError(f"checkpoint '{path}' is a Git LFS pointer, not the weights: fetch it with `git lfs pull`")
    try:
        with torch.serialization.safe_globals(safe_globals()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line), None)
        if refused is None:
            raise CheckpointError(f"checkpoint '{path}' is not a PyTorch checkpoint or is damaged") from error
        raise CheckpointError(
            f"checkpoint '{path}' holds more than weights and was not loaded ({refused}); save its state dict alone"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, OSError) as error:
        raise CheckpointError(f"checkpoint '{path}' is not a PyTorch checkpoint or is damaged") from error
    if isinstance(content, Mapping):
        content = next((content[k] for k in ("state_dict", "model") if isinstance(content.get(k), Mapping)), content)
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"checkpoint '{path}' holds no state dict (a mapping of names to tensors)")
    state = {_renamed(name): value for name, value in content.items()}
    return {name: value for name, value in state.items() if not name.startswith(_CRITERION)}


def _renamed(name: str) -> str:
    for old, new in _PREFIXES.items():
        if name.startswith(old):
            name = new + name[len(old) :]
    return name.replace(".conv2_offset.", ".conv2.conv_offset.")


def load_released(model: nn.Module, path: str | Path, allow_missing_renderer: bool = False) -> list[str]:
    """Load a released (or own) checkpoint into ``model``, all or nothing.

    Every name and shape must agree, and the reference points in the file must be those of the model's range, as two
    data sets' points have the same shapes (valeoai/GaussRender src/utils/setup.py:127-173; models published by
    wzzheng/TPVFormer load too, which prefix ``tpv_``). ``allow_missing_renderer`` accepts a checkpoint trained without
    rendering for a model that has it; its decoder keeps its initial weights. A decoder in the file that the model's options
    do not read is left out.

    Returns the names left at their initial values. Raises CheckpointMismatch with every name that does not fit, and
    CheckpointError for a file that cannot be read.
    """
    unread = tuple(
        f"{name}.decoder." for name, m in model.named_modules() if isinstance(m, VoxelToGaussians) and m.decoder is None
    )
    state = {name: value for name, value in read_state_dict(path).items() if not name.startswith(unread)}
    own = model.state_dict()
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
    }
    if not any(problems.values()):
        problems["made for another range"] = [
            n for n, v in state.items() if ".ref_" in n and not torch.allclose(v, own[n].cpu(), atol=1e-5)
        ]
    if any(problems.values()):
        raise _mismatch(Path(path), problems)
    model.load_state_dict(state | {n: own[n] for n in excused}, strict=True)
    _mark_initialised(model)
    return excused


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


def _load_pretrain(model: nn.Module, path: str | Path, state: Mapping[str, Tensor], whole: str) -> list[str]:
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
