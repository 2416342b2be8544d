"""MonoScene: published parameters and names, first weights, and the behaviour of a model that can be trained here."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from kitti_rig import IMAGE, KITTI360, RENDERING, SMALL, kitti_batch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.checkpoints import CheckpointError, load_efficientnet_pretrain, load_released
from baselines.gaussrender import GaussRender
from baselines.interface import OccupancyBatch, OccupancyGrid
from baselines.monoscene import MonoScene, monoscene_config
from baselines.monoscene.config import PAPER, TOY, check_options
from baselines.monoscene.losses import cell_labels, relation_loss, relations
from baselines.symphonies.geometry import frustums
from baselines.symphonies.losses import voxel_losses

GAUSSIANS = 2 * (32 * 32 + 32) + 33 * (11 + 19)


def build(size: str, grid: OccupancyGrid, **options: Any) -> MonoScene:
    from mmdet3d.registry import MODELS

    torch.manual_seed(0)
    return MODELS.build(monoscene_config(size, grid) | options)  # type: ignore[arg-type]


def small(**options: Any) -> MonoScene:
    return build("toy", SMALL, **options)


def paper(**options: Any) -> MonoScene:
    """The published model without memory for its values, but where mmdet's EfficientNet computes rates of drop path with a
    tensor."""
    linspace = functools.partial(torch.linspace, device="cpu")
    with patch("torch.linspace", linspace), torch.device("meta"):
        return build("paper", KITTI360, **options)


@pytest.fixture(scope="module")
def batch() -> OccupancyBatch:
    return kitti_batch(SMALL, batch=2, **IMAGE)


@pytest.fixture(scope="module")
def toy() -> MonoScene:
    return small().eval()


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# Published parameters ----------------------------------------------------------------------------------------------


def test_paper_model_has_the_published_parameters() -> None:
    """Counted in a model that was built by the published code."""
    model = paper()
    assert count(model.encoder.encoder) == 63_786_960  # EfficientNet-B7 without its classifier
    assert count(model.encoder.decoder) == 68_800_656
    assert count(model.decoder) == 16_859_923
    assert count(model) == 149_447_539 and "149,447,539 parameters" in str(MonoScene.__doc__)
    rendered = paper(gaussrender={})
    assert count(rendered) - count(model) == GAUSSIANS
    assert rendered.state_dict().keys() - model.state_dict().keys() == {"renderer.bg_color", "decoder.renderer.bg_color"} | {
        f"decoder.renderer_prep.decoder.mlp_coarse.{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")
    }


def test_paper_model_has_the_published_names() -> None:
    """Below its backbone, which is mmdet's."""
    found = {name: list(value.shape) for name, value in paper().state_dict().items()}
    published = {
        "encoder.decoder.conv.weight": [2560, 2560, 1, 1],
        "encoder.decoder.resizes.0.weight": [64, 80, 1, 1],
        "encoder.decoder.resizes.3.bias": [64],
        "encoder.decoder.upsamples.0.cbn.0.weight": [80, 163, 3, 3],
        "encoder.decoder.upsamples.4.cbn.0.weight": [1280, 2784, 3, 3],
        "encoder.decoder.upsamples.4.cbn.4.running_var": [1280],
        "decoder.process_l1.0.blks.2.conv2.weight": [16, 16, 1, 1, 3],
        "decoder.process_l1.0.blks.0.conv3.weight": [16, 16, 1, 3, 1],
        "decoder.process_l1.0.blks.0.conv4.weight": [16, 16, 3, 1, 1],
        "decoder.process_l1.0.blks.1.conv5.weight": [64, 16, 1, 1, 1],
        "decoder.process_l1.1.btnk.downsample.1.weight": [128, 64, 1, 1, 1],
        "decoder.process_l1.1.btnk.downsample4.1.weight": [16, 16, 1, 1, 1],
        "decoder.process_l2.1.btnk.conv5.weight": [256, 32, 1, 1, 1],
        "decoder.process_l2.1.btnk.bn5.running_mean": [256],
        "decoder.CP_mega_voxels.mega_context.weight": [512, 256, 3, 3, 3],
        "decoder.CP_mega_voxels.context_prior_logits.3.weight": [512, 256, 1, 1, 1],
        "decoder.CP_mega_voxels.aspp.blks.2.0.weight": [256, 256, 3, 3, 3],
        "decoder.CP_mega_voxels.resize.0.weight": [256, 512 * 4 + 256, 1, 1, 1],
        "decoder.CP_mega_voxels.resize.1.blks.0.conv1.weight": [64, 256, 1, 1, 1],
        "decoder.up_13_l2.up_bn.0.weight": [256, 128, 3, 3, 3],
        "decoder.up_12_l1.up_bn.1.bias": [64],
        "decoder.up_l1_full.up_bn.0.bias": [32],
        "decoder.ssc_head.conv0.weight": [32, 32, 3, 3, 3],
        "decoder.ssc_head.aspp.blks.0.3.weight": [32, 32, 3, 3, 3],
        "decoder.ssc_head.conv_cls.weight": [19, 32, 3, 3, 3],
    }
    assert {name: found.get(name) for name in published} == published


def test_published_scales_train_on_a_small_scene() -> None:
    """Voxels twice as fine as what is filled in, the published quirks, rendering: one step on 16 x 16 x 16 voxels."""
    grid = replace(KITTI360, upper=(51.2, 25.6, 49.2), voxel_size=3.2)
    widths = dict(backbone=TOY["backbone"], in_channels=TOY["in_channels"], width=320)
    model = build("paper", grid, gaussrender=RENDERING, **widths).train()
    assert model.scene.shape == (8, 8, 8) and model.encoder.decoder.conv.padding == (1, 1)
    losses = model.loss(kitti_batch(grid, width=96, height=64))
    assert len(losses) == 5 + 4 and all(torch.isfinite(value) for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


# First weights -----------------------------------------------------------------------------------------------------

B0 = ((3, 1, 1, 16), (3, 2, 2, 24), (5, 2, 2, 40), (3, 2, 3, 80), (5, 1, 3, 112), (5, 2, 4, 192), (3, 1, 1, 320))
"""Kernel, stride, blocks and channels of the seven stages, as the EfficientNet paper has them (arXiv:1905.11946, table 1)."""


def of_timm(seed: int = 0) -> dict[str, Tensor]:
    """An EfficientNet-B0 under timm's names, its values drawn."""
    g = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def conv(name: str, out: int, into: int, kernel: int = 1, bias: bool = False) -> None:
        state[f"{name}.weight"] = torch.randn(out, into, kernel, kernel, generator=g) / (into * kernel**2) ** 0.5
        if bias:
            state[f"{name}.bias"] = 0.1 * torch.randn(out, generator=g)

    def norm(name: str, width: int) -> None:
        for kind in ("weight", "running_var"):
            state[f"{name}.{kind}"] = 0.5 + torch.rand(width, generator=g)
        for kind in ("bias", "running_mean"):
            state[f"{name}.{kind}"] = 0.1 * torch.randn(width, generator=g)
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    conv("conv_stem", 32, 3, 3)
    norm("bn1", 32)
    width = 32
    for stage, (kernel, _, blocks, out) in enumerate(B0):
        for number in range(blocks):
            name, wide = f"blocks.{stage}.{number}", width * (6 if stage else 1)
            if stage:
                conv(f"{name}.conv_pw", wide, width)
                norm(f"{name}.bn1", wide)
            conv(f"{name}.conv_dw", wide, 1, kernel)
            norm(f"{name}.bn{2 if stage else 1}", wide)
            conv(f"{name}.se.conv_reduce", width // 4, wide, bias=True)
            conv(f"{name}.se.conv_expand", wide, width // 4, bias=True)
            conv(f"{name}.{'conv_pwl' if stage else 'conv_pw'}", out, wide)
            norm(f"{name}.bn{3 if stage else 2}", out)
            width = out
    conv("conv_head", 1280, width)
    norm("bn2", 1280)
    return state | {"classifier.weight": torch.zeros(1000, 1280), "classifier.bias": torch.zeros(1000)}


def run_timm(state: dict[str, Tensor], image: Tensor) -> list[Tensor]:
    """What its parts compute: the maps of strides 2, 4, 8, 16 before the last stages of a stride end, and the last one."""

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        kernel, groups = weight.shape[-1], x.shape[1] // weight.shape[1]
        short = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in (x.shape[3], x.shape[2])]
        padded = F.pad(x, [side for n in short for side in (n // 2, n - n // 2)])  # as TensorFlow pads
        return F.conv2d(padded, weight, state.get(f"{name}.bias"), stride, groups=groups)

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (state[f"{name}.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias, eps=1e-3)

    x = F.silu(norm(conv(image, "conv_stem", 2), "bn1"))
    maps = []
    for stage, (_, stride, blocks, _) in enumerate(B0):
        for number in range(blocks):
            name, into = f"blocks.{stage}.{number}", x
            if stage:
                x = F.silu(norm(conv(x, f"{name}.conv_pw"), f"{name}.bn1"))
            x = conv(x, f"{name}.conv_dw", 1 if number else stride)
            x = F.silu(norm(x, f"{name}.bn{2 if stage else 1}"))
            squeezed = F.silu(conv(x.mean(dim=(2, 3), keepdim=True), f"{name}.se.conv_reduce"))
            x = x * conv(squeezed, f"{name}.se.conv_expand").sigmoid()
            x = norm(conv(x, f"{name}.{'conv_pwl' if stage else 'conv_pw'}"), f"{name}.bn{3 if stage else 2}")
            x = x + into if x.shape == into.shape and (number or stride == 1) else x
        if stage in (0, 1, 2, 4):
            maps.append(x)
    return [*maps, F.silu(norm(conv(x, "conv_head"), "bn2"))]


def test_image_network_starts_from_efficientnet(tmp_path: Path) -> None:
    """With timm's weights it computes what timm's network does: the maps that the published code takes of it."""
    state, model = of_timm(), small().eval()
    torch.save(state, tmp_path / "efficientnet.pth")
    before = {n: v.clone() for n, v in model.state_dict().items() if not n.startswith("encoder.encoder.")}
    loaded = load_efficientnet_pretrain(model, tmp_path / "efficientnet.pth")
    assert set(loaded) == {n for n in model.state_dict() if n.startswith("encoder.encoder.")}
    assert len(loaded) == len(state) - 2
    model.init_weights()  # what mmengine's Runner does before training
    own = model.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in before.items())
    image = torch.randn(1, 3, 47, 90, generator=torch.Generator().manual_seed(1))
    for found, expected in zip(model.encoder.encoder(image), run_timm(state, image), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.save({n: v for n, v in state.items() if "blocks.4.1.conv_dw" not in n}, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match="1 missing in the file: encoder.encoder.layers.4.4.depthwise_conv.conv.weight"):
        load_efficientnet_pretrain(model, tmp_path / "part.pth")


def test_lightning_checkpoint_loads(tmp_path: Path, toy: MonoScene) -> None:
    torch.save({"epoch": 1, "state_dict": {f"model.{n}": v for n, v in toy.state_dict().items()}}, tmp_path / "last.ckpt")
    model = small(gaussrender={})
    with pytest.raises(CheckpointError, match="trained without rendering"):
        load_released(model, tmp_path / "last.ckpt")
    left = load_released(model, tmp_path / "last.ckpt", allow_missing_renderer=True)
    own = model.state_dict()
    assert len(left) == 8 and all(torch.equal(value, own[name]) for name, value in toy.state_dict().items())


# Behaviour of the toy model ----------------------------------------------------------------------------------------


def test_toy_prediction(toy: MonoScene, batch: OccupancyBatch) -> None:
    prediction = toy.predict(batch)
    assert [tuple(scale.shape) for scale in prediction.logits] == [(2, 19, 32, 32, 8)]
    assert prediction.features is not None and prediction.features.shape == (2, 16, *SMALL.shape)
    # the rendered features are what the last convolution sees
    torch.testing.assert_close(toy.decoder.ssc_head.conv_cls(prediction.features), prediction.logits[-1])


def test_it_is_taught_by_five_losses_of_equal_weight(toy: MonoScene, batch: OccupancyBatch) -> None:
    prediction = toy.extract(batch)
    losses = toy.occupancy_losses(prediction, batch)
    parts = frustums(SMALL, batch.projection[:, 0], (176, 48), 8)
    expected = voxel_losses(prediction.logits[-1], batch.labels, parts, 64, toy.occupancy_loss.class_weights, 0, 255)
    assert prediction.relations is not None and prediction.relations.shape == (2, 4, 8 * 8 * 2, 4 * 4 * 1)
    cells = cell_labels(batch.labels, 4, 19, 0, 255)
    expected["relation"] = relation_loss(prediction.relations, relations(cells, 19, 0, 255))
    assert losses.keys() == {f"loss_{name}" for name in expected}
    for name, value in expected.items():
        torch.testing.assert_close(losses[f"loss_{name}"], value)


def test_unknown_cells_count_as_unrelated_or_not_at_all(batch: OccupancyBatch) -> None:
    labels = batch.labels.clone()
    labels[:, :16] = SMALL.ignore
    found = [
        small(unknown_unrelated=choice).eval().loss(replace(batch, labels=labels))["loss_relation"] for choice in (True, False)
    ]
    assert all(torch.isfinite(value) for value in found) and abs(found[0] - found[1]) > 1e-3


def test_a_frame_of_which_nothing_is_known_teaches_nothing(batch: OccupancyBatch) -> None:
    """The published losses are NaN there."""
    model = small(unknown_unrelated=False).train()
    losses = model.loss(replace(batch, labels=torch.full_like(batch.labels, SMALL.ignore)))
    sum(losses.values()).backward()
    assert all(value == 0 for value in losses.values())
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_batch_is_its_samples(toy: MonoScene, batch: OccupancyBatch) -> None:
    """Samples with different cameras, hence different voxels in view."""
    both = toy.predict(batch).logits[-1]
    for index in range(2):
        torch.testing.assert_close(toy.predict(batch.one(index)).logits[-1][0], both[index], rtol=1e-4, atol=1e-4)


def test_predictions_depend_on_image_and_camera(toy: MonoScene, batch: OccupancyBatch) -> None:
    plain = toy.predict(batch).logits[-1]
    for other in (replace(batch, images=batch.images.flip(0)), replace(batch, projection=batch.projection.flip(0))):
        assert not torch.allclose(toy.predict(other).logits[-1], plain)


def test_images_reach_the_backbone_as_rgb(toy: MonoScene, batch: OccupancyBatch) -> None:
    """BGR minus the mean -> RGB in ImageNet's normalisation of values in 0..1."""
    bgr = torch.tensor([[10.0, 120.0, 250.0]]).expand(2, 3)[:, None, :, None, None].expand(2, 1, 3, 48, 176)
    seen: list[Tensor] = []
    hook = toy.encoder.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    mean = torch.tensor([103.53, 116.28, 123.675])[:, None, None]
    toy.predict(replace(batch, images=bgr - mean))
    hook.remove()
    rgb = torch.tensor([250.0, 120.0, 10.0]) / 255
    expected = (rgb - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(seen[0], expected[:, None, None].expand(2, 3, 48, 176))


def test_every_parameter_gets_a_gradient(batch: OccupancyBatch) -> None:
    model = small(gaussrender=RENDERING).eval()  # in training batch norm takes off what biases before it add
    sum(model.loss(batch).values()).backward()
    assert not {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_rendering_reaches_the_whole_network(batch: OccupancyBatch) -> None:
    model = small(gaussrender=RENDERING).train()
    assert model.gaussrender is not None and model.gaussrender.grid == SMALL
    assert model.decoder.renderer is model.renderer is model.gaussrender.renderer
    rendered = [value for name, value in model.loss(batch).items() if name.startswith("loss_render_")]
    assert len(rendered) == 4
    torch.stack(rendered).sum().backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"decoder.ssc_head.conv_cls.weight", "decoder.CP_mega_voxels.mega_context.weight"} <= touched
    assert "decoder.renderer_prep.decoder.mlp_coarse.4.weight" in touched
    assert any(name.startswith("encoder.encoder.layers.0.") for name in touched)


def test_rendering_leaves_inference_as_it_is(toy: MonoScene, batch: OccupancyBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = small(gaussrender=RENDERING).eval()
    rendered.load_state_dict(toy.state_dict(), strict=False)
    monkeypatch.setattr(GaussRender, "losses", lambda *_: pytest.fail("the plug-in ran"))
    plain, other = toy.predict(batch), rendered.predict(batch)
    assert torch.equal(other.logits[-1], plain.logits[-1])
    assert other.features is not None and plain.features is not None and torch.equal(other.features, plain.features)


def test_training_lowers_the_loss_and_has_the_same_bits_twice() -> None:
    batch, runs = kitti_batch(SMALL, **IMAGE), []
    for _ in range(2):
        model, losses = small().train(), []
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        for _ in range(5):
            optimizer.zero_grad()
            loss = torch.stack(list(model.loss(batch).values())).sum()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        runs.append((losses, model.state_dict()))
    assert runs[0][0][-1] < 0.95 * runs[0][0][0]
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(value, runs[1][1][name]) for name, value in runs[0][1].items())


def test_geometry_and_logits_are_float32_under_autocast(toy: MonoScene, batch: OccupancyBatch) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = toy.predict(batch)
    assert prediction.logits[-1].dtype == torch.float32 and prediction.features is not None
    assert prediction.features.dtype == torch.float32
    torch.testing.assert_close(prediction.logits[-1], toy.predict(batch).logits[-1], rtol=0.1, atol=0.1)


def test_wrong_input_is_named(toy: MonoScene, batch: OccupancyBatch) -> None:
    with pytest.raises(ValueError, match="2 cameras, the model was built for 1 to 1"):
        toy.predict(replace(batch, images=batch.images.repeat(1, 2, 1, 1, 1)))
    with pytest.raises(ValueError, match=r"projection must be \[2, 1, 4, 4\]"):
        toy.predict(replace(batch, projection=batch.projection[:1]))
    with pytest.raises(ValueError, match="unknown MonoScene size 'huge'"):
        monoscene_config("huge", SMALL)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (dict(in_channels=(16, 24, 40)), r"in_channels must be 5 numbers, one an output of the backbone, got \(16, 24, 40\)"),
        (dict(width=100), "width must be a multiple of 32.*got 100"),
        (dict(dim=10), "dim must be a multiple of 4, got 10"),
        (dict(view_scales=(1, 3)), r"view_scales must be some of 1, 2, 4, 8, 16, each once, got \(1, 3\)"),
        (dict(view_scales=(2, 2)), "each once"),
        (dict(view_scales=()), "view_scales must be some of"),
        (dict(volume_scale=4), "volume_scale must be 1 or 2, got 4"),
        (dict(volume_scale=2), "multiples of 16 voxels along x, y and z for volume_scale 2 .* it has 32 x 32 x 8"),
        (dict(frustum_size=0), "frustum_size must be at least 1, got 0"),
    ],
)
def test_options_that_do_not_fit_are_named_before_anything_is_loaded(option: dict[str, Any], said: str) -> None:
    config = monoscene_config("toy", SMALL)
    check_options(config)
    with pytest.raises(ValueError, match=said):
        check_options(config | option)
    with pytest.raises(ValueError, match=said):
        small(**option)


def test_other_scales_leave_nothing_untrained(batch: OccupancyBatch) -> None:
    model = small(view_scales=(16, 4)).eval()
    assert [type(part).__name__ for part in model.encoder.decoder.upsamples] == ["Identity"] * 2 + ["UpSample"] * 3
    sum(model.loss(batch).values()).backward()
    assert not {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert PAPER["view_scales"] == (1, 2, 4, 8)
