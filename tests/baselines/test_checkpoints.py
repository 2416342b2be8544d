"""Checkpoints: published forms load, everything else is refused with one message."""

from __future__ import annotations

import argparse
import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from surround_rig import surround_batch, toy_grid
from torch import Tensor

from baselines.checkpoint_files import read_checkpoint
from baselines.checkpoints import CheckpointError, load_fcos3d_pretrain, load_released, read_state_dict
from baselines.tpvformer import TPVFormer, tpvformer_config

GRID = toy_grid().coarsened(2)
DCN = dict(
    type="ResNet",
    depth=50,
    base_channels=4,
    stem_channels=4,
    out_indices=(1, 2, 3),
    norm_eval=True,
    style="caffe",
    dcn=dict(type="DCNv2Portable", deform_groups=1, fallback_on_stride=False),
    stage_with_dcn=(False, False, True, True),
)
NECK = dict(type="FPN", in_channels=[32, 64, 128], out_channels=64, num_outs=3)


def build(rendering: bool | dict[str, Any], seed: int = 0) -> TPVFormer:
    """A small relative of the paper's model: deformable convolutions in the backbone, the same names.

    rendering: whether it has GaussRender, or with which options.
    """
    from mmdet3d.registry import MODELS

    torch.manual_seed(seed)
    options = rendering if isinstance(rendering, dict) else {} if rendering else None
    config = tpvformer_config("toy", GRID, gaussrender=options, renderer="reference")
    return MODELS.build(config | dict(backbone=DCN, neck=NECK))


def released(state: dict[str, Tensor]) -> dict[str, Any]:
    """What GaussRender's training script saves beside the weights."""
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}}
    optimizer = {"state": moments, "param_groups": [{"lr": 2e-4, "params": [0]}]}
    return {"state_dict": state, "optimizer": optimizer, "scheduler": {"t": 3}, "epoch": 18, "global_iter": 500}


@pytest.fixture(scope="module")
def rendered() -> TPVFormer:
    return build(True, seed=1)


def same(a: torch.nn.Module, state: dict[str, Tensor]) -> bool:
    own = a.state_dict()
    return all(torch.equal(own[n], v) for n, v in state.items())


def test_published_file_loads(rendered: TPVFormer, tmp_path: Path) -> None:
    state = rendered.state_dict()
    assert {"renderer.bg_color", "aggregator.renderer.bg_color"} <= set(state)
    torch.save(released({f"module.{n}": v for n, v in state.items()}), tmp_path / "a.pth")
    model = build(True, seed=2)
    assert not same(model, state)
    assert load_released(model, tmp_path / "a.pth") == []
    assert same(model, state)
    batch = surround_batch(GRID, width=104, height=64)
    # Not to the bit: a convolution may take another path for weights that lie at another address.
    expected = rendered.eval().predict(batch).logits[0]
    torch.testing.assert_close(model.eval().predict(batch).logits[0], expected, atol=1e-5, rtol=1e-4)
    model.init_weights()  # what mmengine's Runner does before training
    assert same(model, state)


def test_original_names_and_legacy_offsets_load(tmp_path: Path) -> None:
    state = build(False, seed=1).state_dict()
    assert any(".conv2.conv_offset." in n for n in state)

    def original(name: str) -> str:
        for ours, theirs in (("head.", "tpv_head."), ("aggregator.", "tpv_aggregator.")):
            if name.startswith(ours):
                name = theirs + name[len(ours) :]
        return name.replace(".conv2.conv_offset.", ".conv2_offset.")

    torch.save({original(n): v for n, v in state.items()}, tmp_path / "a.pth")
    model = build(False, seed=2)
    load_released(model, tmp_path / "a.pth")
    assert same(model, state)


def test_weights_without_rendering_need_permission(tmp_path: Path) -> None:
    state = build(False, seed=1).state_dict()
    torch.save(released(state), tmp_path / "a.pth")
    model = build(True, seed=2)
    with pytest.raises(CheckpointError, match=r"8 missing in the file: .*renderer.*trained without rendering"):
        load_released(model, tmp_path / "a.pth")
    left = load_released(model, tmp_path / "a.pth", allow_missing_renderer=True)
    assert len(left) == 8 and all("renderer" in n for n in left)
    assert same(model, state)


@pytest.mark.parametrize("option", ["overwrite_opacity", "transfer_opacity"])
def test_a_published_decoder_that_is_not_read_is_left_out(rendered: TPVFormer, option: str, tmp_path: Path) -> None:
    torch.save(released(rendered.state_dict()), tmp_path / "a.pth")
    model = build({option: True}, seed=2)
    assert not any("renderer_prep" in n for n in model.state_dict())
    assert load_released(model, tmp_path / "a.pth") == []
    assert same(model, {n: v for n, v in rendered.state_dict().items() if "renderer_prep" not in n})


def test_what_does_not_fit_is_listed_and_nothing_is_loaded(rendered: TPVFormer, tmp_path: Path) -> None:
    state = dict(rendered.state_dict())
    state.pop("head.level_embeds")
    state["aggregator.classifier.bias"] = torch.zeros(17)
    state["head.surplus"] = torch.zeros(1)
    torch.save(state, tmp_path / "a.pth")
    model = build(True, seed=2)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_released(model, tmp_path / "a.pth")
    text = str(error.value)
    assert "1 missing in the file: head.level_embeds." in text
    assert "1 unknown to the model: head.surplus." in text
    assert "1 of another shape: aggregator.classifier.bias [17], the model has [18]." in text
    assert same(model, before)


def test_rendering_weights_for_a_model_without(rendered: TPVFormer, tmp_path: Path) -> None:
    torch.save(rendered.state_dict(), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="8 unknown to the model.*trained with rendering"):
        load_released(build(False), tmp_path / "a.pth")


def test_another_range_is_refused(rendered: TPVFormer, tmp_path: Path) -> None:
    state = dict(rendered.state_dict())
    state["head.encoder.ref_3d_hw"] = state["head.encoder.ref_3d_hw"] * 0.99
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="1 made for another range: head.encoder.ref_3d_hw"):
        load_released(build(True), tmp_path / "a.pth")


class Malicious:
    """Runs a command when unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def test_unreadable_files_give_one_message(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        read_state_dict(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(CheckpointError, match="not a PyTorch checkpoint or is damaged"):
        read_state_dict(tmp_path / "text.pth")
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="not a PyTorch checkpoint or is damaged"):
        read_state_dict(tmp_path / "cut.pth")
    (tmp_path / "lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:fc45\nsize 754712910\n")
    with pytest.raises(CheckpointError, match="Git LFS pointer"):
        read_state_dict(tmp_path / "lfs.pth")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        read_state_dict(tmp_path / "none.pth")


@pytest.mark.parametrize("plain", [False, True])
def test_nothing_in_a_file_is_executed(plain: bool, tmp_path: Path) -> None:
    marker, file = tmp_path / "executed", tmp_path / "a.pth"
    content = {"state_dict": {"a": torch.zeros(1)}, "extra": Malicious(str(marker))}
    if plain:
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file)
    with pytest.raises(CheckpointError):
        read_state_dict(file)
    assert not marker.exists()


class Reach:
    """Asks for an attribute when unpickled, the first step towards any function of the process."""

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (HistoryBuffer, "__init__")


def test_own_training_checkpoints_are_read_and_attributes_are_not_handed_out(tmp_path: Path) -> None:
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    content = {"state_dict": {"a": torch.ones(1)}, "message_hub": {"log_scalars": {"loss": history}}}
    torch.save(content, tmp_path / "own.pth")
    assert torch.equal(read_state_dict(tmp_path / "own.pth")["a"], torch.ones(1))
    torch.save(content | {"extra": Reach()}, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match="holds more than weights"):
        read_state_dict(tmp_path / "bad.pth")


@pytest.mark.parametrize("prefixes", [("img_backbone.", "img_neck."), ("backbone.", "neck.")])
def test_fcos3d_start(prefixes: tuple[str, str], tmp_path: Path) -> None:
    donor = build(False, seed=1).state_dict()
    state = {prefixes[0] + n[13:]: v for n, v in donor.items() if n.startswith("img_backbone.")}
    state |= {prefixes[1] + n[9:]: v for n, v in donor.items() if n.startswith("img_neck.")}
    odd = prefixes[1] + "lateral_convs.0.conv.weight"
    state[odd] = torch.zeros(8, 32, 1, 1)
    state |= {prefixes[1] + "fpn_convs.4.conv.bias": torch.zeros(64), "bbox_head.conv.weight": torch.zeros(3)}
    torch.save({"meta": {"epoch": 12}, "state_dict": state}, tmp_path / "a.pth")
    model = build(False, seed=2)
    fresh = model.img_neck.lateral_convs[0].conv.weight.clone()
    loaded = load_fcos3d_pretrain(model, tmp_path / "a.pth")
    assert len(loaded) == len(state) - 3
    assert same(model, {n: donor[n] for n in loaded})
    assert torch.equal(model.img_neck.lateral_convs[0].conv.weight, fresh)
    del state[prefixes[0] + "layer4.0.conv2.weight"]
    torch.save(state, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="1 missing in the file: img_backbone.layer4.0.conv2.weight"):
        load_fcos3d_pretrain(model, tmp_path / "b.pth")


def own_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(state)


HISTORY = {"log_scalars": {"loss": HistoryBuffer([1.0, 2.0], [1, 1])}, "runtime_info": {"cfg": "x"}}
FORMS = {
    "bare": own_names,
    "TPVFormer's own": lambda s: {"state_dict": {f"module.{n}": v for n, v in s.items()}, "best_val_miou": np.float64(55.0)},
    "model": lambda s: {"model": s, "lr": np.float32(0.1), "names": np.array(["car", "bus"]), "args": argparse.Namespace(lr=1)},
    "model_state_dict": lambda s: {"model_state_dict": s, "path": Path("x")},
    "below model": lambda s: {"model": {"state_dict": {f"module.model.{n}": v for n, v in s.items()}}},
    "EMA": lambda s: {"ema_state_dict": {"steps": torch.tensor(3), **{f"module.{n}": v for n, v in s.items()}}},
    "EMA beside": lambda s: {"ema": {n: v + 1 for n, v in s.items()}, "state_dict": s},
    "Lightning": lambda s: {"state_dict": {f"model.{n}": v for n, v in s.items()}, "callbacks": {"x": {"best": torch.ones(1)}}},
    "mmengine": lambda s: {"meta": {"iter": 3}, "state_dict": s, "message_hub": HISTORY, "optimizer": {"state": {}}},
    "parameters": lambda s: {"state_dict": {n: torch.nn.Parameter(v) if v.is_floating_point() else v for n, v in s.items()}},
    "numpy": lambda s: {"state_dict": {n: v.numpy() for n, v in s.items()}},
    "compiled": lambda s: {f"_orig_mod.{n}": v for n, v in s.items()},
}


@pytest.mark.parametrize("legacy", [False, True])
def test_every_form_in_which_weights_are_saved_loads(legacy: bool, tmp_path: Path) -> None:
    state = {"a.weight": torch.randn(3, 4), "a.bias": torch.randn(3), "a.count": torch.tensor(5)}
    for name, form in FORMS.items():
        torch.save(form(state), tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
        read = read_state_dict(tmp_path / "a.pth")
        assert list(read) == list(state) and all(torch.equal(read[n], v) for n, v in state.items()), name


def test_what_a_file_holds_of_tensors_is_what_torch_reads(tmp_path: Path) -> None:
    """Every kind of number, views, a shared storage, no elements; zipped and legacy."""
    base = torch.arange(24.0).reshape(4, 6)
    kinds = (torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool)
    content = {str(kind): torch.ones(3).to(kind) for kind in kinds}
    content |= {"transposed": base.T, "view": base[1:, ::2], "expanded": base[:1].expand(5, 6), "empty": base[:0]}
    for zip_file in (True, False):
        torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zip_file)
        ours, theirs = read_checkpoint(tmp_path / "a.pth"), torch.load(tmp_path / "a.pth", weights_only=True)
        for name, value in theirs.items():
            assert torch.equal(ours[name], value) and ours[name].dtype == value.dtype and ours[name].stride() == value.stride()


def test_safetensors_load(tmp_path: Path) -> None:
    state = {"a": torch.randn(2, 3), "b": torch.ones(4, dtype=torch.int64)}
    header, data = {}, b""
    for name, value in state.items():
        raw = value.numpy().tobytes()
        kind = {torch.float32: "F32", torch.int64: "I64"}[value.dtype]
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    read = read_state_dict(tmp_path / "a.safetensors")
    assert all(torch.equal(read[n], v) for n, v in state.items())
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data[:-1])
    with pytest.raises(CheckpointError, match="a.safetensors.*b has no"):
        read_state_dict(tmp_path / "a.safetensors")


def test_half_precision_loads_into_a_model_of_single(tmp_path: Path) -> None:
    state = build(False, seed=1).state_dict()
    for kind in (torch.float16, torch.bfloat16):
        torch.save({n: v.to(kind) if v.is_floating_point() else v for n, v in state.items()}, tmp_path / "a.pth")
        model = build(False, seed=2)
        load_released(model, tmp_path / "a.pth")
        own = model.state_dict()
        assert all(own[n].dtype == v.dtype for n, v in state.items())
        assert all(torch.allclose(own[n].float(), v.float(), rtol=1e-2, atol=1e-6) for n, v in state.items() if ".ref_" not in n)
        assert all(torch.equal(own[n], v) for n, v in state.items() if ".ref_" in n)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"state_dict": {"a": torch.tensor([1.0, float("nan")])}}, "a has NaN or infinite values"),
        ({"a": torch.tensor([float("inf")])}, "a has NaN or infinite values"),
        ({"a": torch.ones(1), "epoch": 3}, "entry 'epoch' of its state dict is a int"),
        ({"model": torch.nn.Linear(1, 1)}, r"entry \['model'\].* is of torch.nn.modules.linear.Linear"),
        ({"state_dict": {"a": torch.ones(1)}, "f": torch.nn.functional.gelu}, r"entry \['f'\] is of torch"),
        ({"state_dict": {"a": torch.ones(2).to_sparse()}}, r"entry \['state_dict'\]\['a'\] is of torch"),
        ({"weights": {}, "epoch": 2}, "its entries: weights, epoch"),
    ],
)
def test_what_cannot_load_is_named(content: Any, said: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=said):
        read_state_dict(tmp_path / "a.pth")


def test_what_training_goes_on_from_has_no_stand_ins(tmp_path: Path) -> None:
    torch.save({"milestones": Counter({3: 1}), "lr": 0.1}, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth", sealed=False) == {"milestones": Counter({3: 1}), "lr": 0.1}
    torch.save({"lr": 0.1, "args": argparse.Namespace(lr=1)}, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth")["lr"] == 0.1
    with pytest.raises(CheckpointError, match=r"entry \['args'\] is of argparse.Namespace"):
        read_checkpoint(tmp_path / "a.pth", sealed=False)


def test_loss_histories_come_back_as_they_were(tmp_path: Path) -> None:
    torch.save({"message_hub": HISTORY}, tmp_path / "a.pth")
    read = read_checkpoint(tmp_path / "a.pth")["message_hub"]["log_scalars"]["loss"]
    assert type(read) is HistoryBuffer and read.data[0].tolist() == [1.0, 2.0] and read.mean() == 1.5
    read.update(4.0)
    assert HISTORY["log_scalars"]["loss"].data[0].tolist() == [1.0, 2.0]
