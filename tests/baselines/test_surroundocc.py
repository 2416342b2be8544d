"""SurroundOcc: published parameters, geometry, and the behaviour of a model that can be trained here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from grids import kitti360_grid, occ3d_grid, surroundocc_grid
from surround_rig import surround_batch, toy_grid
from torch import nn

from baselines.checkpoints import CheckpointError, load_released
from baselines.interface import OccupancyBatch, OccupancyGrid
from baselines.losses import OccupancyLoss
from baselines.ops.camera_attention import camera_views, sampling_directions
from baselines.surroundocc import SurroundOcc, surroundocc_config
from baselines.surroundocc.volume import (
    VolumeCrossAttention,
    VolumeDeformableAttention,
    VolumeSizes,
    VolumeTransformer,
    as_tokens,
    as_volume,
    reference_points,
)
from baselines.tpvformer import trainable_parameters

OCC3D = occ3d_grid()
SURROUNDOCC = surroundocc_grid()
KITTI360 = kitti360_grid()
BACKBONE = 43_977_150
NECK = 8_915_968
UNUSED = 2_697  # the three reference_points layers

# The behaviour of the toy model is tested on few voxels and small images; the grid halves twice.
SMALL = replace(toy_grid(), lower=(-32.0, -32.0, -1.0), upper=(32.0, 32.0, 5.4), voxel_size=1.6)


def build(size: str, grid: OccupancyGrid, **options: Any) -> SurroundOcc:
    from mmdet3d.registry import MODELS

    torch.manual_seed(0)
    return MODELS.build(surroundocc_config(size, grid) | options)  # type: ignore[arg-type]


def paper(grid: OccupancyGrid, **options: Any) -> SurroundOcc:
    """The published model without memory for its 180 million values: for names, shapes and counts."""
    with torch.device("meta"):
        return build("paper", grid, **options)


@pytest.fixture(scope="module")
def batch() -> OccupancyBatch:
    return surround_batch(SMALL, batch=2, width=104, height=64)


@pytest.fixture(scope="module")
def toy() -> SurroundOcc:
    """The toy model in evaluation mode, with attentions whose offsets depend on the tokens."""
    model = build("toy", SMALL)
    for name, parameter in model.named_parameters():
        if "sampling_offsets.weight" in name or "attention_weights" in name:
            nn.init.normal_(parameter, std=0.05)
    return model.eval()


# Published parameters ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "grid, logged, head",
    [(SURROUNDOCC, 180_077_194, 127_183_737), (OCC3D, 180_077_707, 127_184_217), (KITTI360, 210_678_412, 157_784_889)],
)
def test_paper_model_has_the_parameters_of_the_logs(grid: OccupancyGrid, logged: int, head: int) -> None:
    model = paper(grid, gaussrender={})
    assert trainable_parameters(model) == logged
    decoder = 2 * (32 * 32 + 32) + 33 * (11 + grid.num_classes)
    assert logged == BACKBONE + NECK + head - UNUSED + decoder
    base = paper(grid)
    assert trainable_parameters(base) == logged - decoder
    assert sum(p.numel() for p in base.head.parameters()) == head
    assert trainable_parameters(base.img_backbone) == BACKBONE and trainable_parameters(base.img_neck) == NECK
    found = {name: tuple(value.shape) for name, value in model.head.state_dict().items()}
    assert found == published_head(grid) | rendering(grid)
    assert {name: tuple(value.shape) for name, value in base.head.state_dict().items()} == published_head(grid)
    assert model.state_dict().keys() - base.state_dict().keys() == {"renderer.bg_color"} | {
        f"head.{name}" for name in rendering(grid)
    }


def test_original_model_is_met_with_its_unused_layers() -> None:
    model = paper(SURROUNDOCC)
    unused = [p for name, p in model.named_parameters() if ".reference_points." in name]
    assert not any(p.requires_grad for p in unused) and sum(p.numel() for p in unused) == UNUSED
    assert trainable_parameters(model) + UNUSED == 180_076_855


def test_parameters_of_each_scale() -> None:
    head = paper(SURROUNDOCC).head
    parts = (head.transformer, head.volume_embedding, head.transfer_conv)
    counts = [tuple(sum(p.numel() for p in part[i].parameters()) for part in parts) for i in range(3)]
    assert counts == [(992_563, 10_240_000, 65_664), (11_883_811, 2_560_000, 131_328), (95_009_411, 640_000, 262_656)]


def published_head(grid: OccupancyGrid) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published state dict below the head, written out from its description."""
    out: dict[str, tuple[int, ...]] = {}

    def linear(prefix: str, outputs: int, inputs: int) -> None:
        out[f"{prefix}.weight"], out[f"{prefix}.bias"] = (outputs, inputs), (outputs,)

    def norm(prefix: str, channels: int) -> None:
        out[f"{prefix}.weight"] = out[f"{prefix}.bias"] = (channels,)

    x, y, z = grid.shape
    for i, (dim, layers, points) in enumerate(((128, 1, 2), (256, 3, 4), (512, 6, 8))):
        scale = 2 ** (i + 1)
        out[f"volume_embedding.{i}.weight"] = ((x // scale) * (y // scale) * (z // scale), dim)
        out[f"transfer_conv.{i}.0.weight"], out[f"transfer_conv.{i}.0.bias"] = (dim, 512, 1, 1), (dim,)
        prefix = f"transformer.{i}"
        out[f"{prefix}.level_embeds"], out[f"{prefix}.cams_embeds"] = (4, dim), (6, dim)
        linear(f"{prefix}.reference_points", 3, dim)
        for layer in range(layers):
            at = f"{prefix}.encoder.layers.{layer}"
            linear(f"{at}.attentions.0.deformable_attention.sampling_offsets", 8 * points * 2, dim)
            linear(f"{at}.attentions.0.deformable_attention.attention_weights", 8 * points, dim)
            linear(f"{at}.attentions.0.deformable_attention.value_proj", dim, dim)
            linear(f"{at}.attentions.0.output_proj", dim, dim)
            linear(f"{at}.ffns.0.layers.0.0", 2 * dim, dim)
            linear(f"{at}.ffns.0.layers.1", dim, 2 * dim)
            for n in range(2):
                norm(f"{at}.norms.{n}", dim)
                out[f"{at}.deblock.{n}.0.weight"] = (dim, dim, 3, 3, 3)
                norm(f"{at}.deblock.{n}.1", dim)
    inputs, outputs = (512, 256, 256, 128, 128, 64, 64), (256, 256, 128, 128, 64, 64, 32)
    for i, (before, after) in enumerate(zip(inputs, outputs, strict=True)):
        out[f"deblocks.{i}.0.weight"] = (before, after, 2, 2, 2) if i % 2 else (after, before, 3, 3, 3)
        norm(f"deblocks.{i}.1", after)
    for i, width in enumerate((256, 128, 64, 32)):
        out[f"occ.{i}.weight"] = (grid.num_classes, width, 1, 1, 1)
    return out


def rendering(grid: OccupancyGrid) -> dict[str, tuple[int, ...]]:
    out: dict[str, tuple[int, ...]] = {"renderer.bg_color": (19,)}
    for i, width in ((0, 32), (2, 32), (4, 11 + grid.num_classes)):
        out[f"renderer_prep.decoder.mlp_coarse.{i}.weight"] = (width, 32)
        out[f"renderer_prep.decoder.mlp_coarse.{i}.bias"] = (width,)
    return out


def test_original_weights_load_by_their_names(tmp_path: Any, toy: SurroundOcc) -> None:
    """SurroundOcc's own checkpoints call the head ``pts_bbox_head``; what does not fit is named."""
    original = {name.replace("head.", "pts_bbox_head.", 1) if name.startswith("head.") else name: value
                for name, value in toy.state_dict().items()}  # fmt: skip
    torch.save({"state_dict": original, "meta": {"epoch": 24}}, tmp_path / "epoch_24.pth")
    other = build("toy", SMALL, gaussrender={})
    with pytest.raises(CheckpointError, match="trained without rendering"):
        load_released(other, tmp_path / "epoch_24.pth")
    left = load_released(other, tmp_path / "epoch_24.pth", allow_missing_renderer=True)
    assert len(left) == 8 and all("renderer" in name for name in left)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in toy.state_dict().items())
    plain = build("toy", SMALL)
    torch.save({"state_dict": other.state_dict()}, tmp_path / "render.pth")
    with pytest.raises(CheckpointError, match="trained with rendering"):
        load_released(plain, tmp_path / "render.pth")


# Geometry ----------------------------------------------------------------------------------------------------------


def test_tokens_run_along_x_first() -> None:
    """Token (z * H + h) * W + w is the voxel (x = w, y = h, z)."""
    cells = (4, 3, 2)
    points = reference_points(cells)
    assert points.shape == (1, 1, 24, 3)
    torch.testing.assert_close(points[0, 0, (1 * 3 + 2) * 4 + 1], torch.tensor([1.5 / 4, 2.5 / 3, 1.5 / 2]))
    query = torch.randn(2, 24, 5)
    volume = as_volume(query, cells)
    assert volume.shape == (2, 5, 4, 3, 2)
    torch.testing.assert_close(volume[1, :, 1, 2, 1], query[1, (1 * 3 + 2) * 4 + 1])
    torch.testing.assert_close(as_tokens(volume), query)


def test_a_token_sees_the_colour_at_its_projection() -> None:
    """A camera that looks along +x over a map painted left and right: voxels with y > 0 take the left colour."""
    grid = OccupancyGrid((0.0, -8.0, -2.0), (16.0, 8.0, 2.0), 1.0, ("empty", "thing"), 0)
    torch.manual_seed(0)
    model = VolumeTransformer(grid, VolumeSizes((8, 8, 2), 4, 1, 1, 8), heads=1, groups=2, num_cameras=1, dropout=0.0)
    attention = model.encoder.layers[0].attentions[0].deformable_attention
    nn.init.zeros_(attention.sampling_offsets.bias)
    nn.init.eye_(attention.value_proj.weight)
    seen: list[torch.Tensor] = []
    attention.register_forward_hook(lambda module, inputs, output: seen.append(output))
    nn.init.zeros_(model.level_embeds)
    nn.init.zeros_(model.cams_embeds)
    camera = torch.tensor([[50.0, -50.0, 0, 0], [25.0, 0, -50.0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]])  # 100 x 50 pixels
    features = torch.zeros(1, 1, 4, 10, 20)
    features[..., 0, :, :10], features[..., 1, :, 10:] = 1.0, 1.0
    model(torch.randn(1, 128, 4), features, camera[None, None], (100, 50))
    colour = as_volume(seen[0], (8, 8, 2))[0]
    left, right = colour[0], colour[1]
    visible = colour.sum(dim=0) > 0
    assert visible.any() and not visible.all()
    y = grid.coarsened(2).centres()[..., 1]
    far = visible & (y.abs() > 1.5)
    assert far[:, 4:].any() and far[:, :4].any()
    assert (left[far] > 0.99).eq(y[far] > 0).all() and (right[far] > 0.99).eq(y[far] < 0).all()


# Attention ---------------------------------------------------------------------------------------------------------


def test_sampling_starts_as_published() -> None:
    module = VolumeDeformableAttention(16, heads=8, points=4)
    module.init_sampling()
    offsets = module.sampling_offsets.bias.view(8, 4, 2)
    torch.testing.assert_close(offsets, sampling_directions(8)[:, None] * torch.arange(1.0, 5.0)[:, None])
    torch.testing.assert_close(offsets[1, 2], torch.tensor([3.0, 3.0]))
    assert not module.attention_weights.weight.any() and not module.sampling_offsets.weight.any()


def test_attention_is_its_definition() -> None:
    """Against one token, camera, head and point after the other."""
    torch.manual_seed(1)
    dim, heads, points, height, width, tokens, cameras = 8, 2, 3, 3, 5, 6, 3
    module = VolumeCrossAttention(dim, heads, points, dropout=0.0).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    query = torch.randn(2, tokens, dim, dtype=torch.float64, requires_grad=True)
    maps = torch.randn(2 * cameras, height * width, dim, dtype=torch.float64)
    positions = torch.rand(2, cameras, tokens, 1, 2, dtype=torch.float64)
    inside = torch.rand(2, cameras, tokens, 1) < 0.5
    inside[:, :, 0] = False  # a token that no camera sees keeps the residual and the projection's bias
    out = module(query, maps, (height, width), camera_views(positions, inside))

    attention = module.deformable_attention
    value = attention.value_proj(maps).view(2, cameras, height, width, heads, dim // heads)
    slots = torch.zeros(2, tokens, dim, dtype=torch.float64)
    for b in range(2):
        for token in range(tokens):
            offset = attention.sampling_offsets(query[b, token]).view(heads, points, 2)
            weight = attention.attention_weights(query[b, token]).view(heads, points).softmax(-1)
            seeing = [c for c in range(cameras) if inside[b, c, token]]
            for c in seeing:
                for head in range(heads):
                    for p in range(points):
                        grid = (positions[b, c, token, 0] + offset[head, p] / torch.tensor([width, height])) * 2 - 1
                        sample = nn.functional.grid_sample(
                            value[b, c, :, :, head].permute(2, 0, 1)[None], grid[None, None, None], align_corners=False
                        )[0, :, 0, 0]
                        part = slice(head * dim // heads, (head + 1) * dim // heads)
                        slots[b, token, part] += weight[head, p] * sample / len(seeing)
    expected = query + module.output_proj(slots)
    torch.testing.assert_close(out, expected)
    assert torch.isfinite(torch.autograd.grad(out.sin().sum(), query)[0]).all()


# Behaviour of the toy model ----------------------------------------------------------------------------------------


def test_toy_prediction(toy: SurroundOcc, batch: OccupancyBatch) -> None:
    prediction = toy.predict(batch)
    assert [tuple(scale.shape) for scale in prediction.logits] == [
        (2, 18, 10, 10, 1),
        (2, 18, 20, 20, 2),
        (2, 18, 40, 40, 4),
    ]
    assert prediction.features is not None and prediction.features.shape == (2, 16, *SMALL.shape)
    assert prediction.labels.shape == (2, *SMALL.shape)


def test_losses_of_coarser_scales_count_half_as_much(toy: SurroundOcc, batch: OccupancyBatch) -> None:
    """0.5^k for the k-th scale below the finest, as SurroundOcc weighs them."""
    losses = toy.loss(batch)
    assert set(losses) == {f"loss_{kind}{scale}" for kind in ("ce", "lovasz") for scale in ("", "_scale1", "_scale2")}
    logits = toy.predict(batch).logits
    for scale, prediction in enumerate(reversed(logits)):
        alone = OccupancyLoss(SMALL.coarsened(2**scale) if scale else SMALL)
        target = batch.labels if scale == 0 else coarse(batch.labels, 2**scale)
        own = alone((prediction,), target)
        suffix = f"_scale{scale}" if scale else ""
        for kind in ("ce", "lovasz"):
            torch.testing.assert_close(losses[f"loss_{kind}{suffix}"], own[f"loss_{kind}"] * 0.5**scale, rtol=1e-4, atol=1e-5)


def coarse(labels: torch.Tensor, factor: int) -> torch.Tensor:
    from baselines.losses import coarse_labels

    return coarse_labels(labels, factor, SMALL)


def test_a_batch_is_its_samples(toy: SurroundOcc, batch: OccupancyBatch) -> None:
    both = toy.predict(batch).logits[-1]
    names = ("images", "projection", "intrinsics", "reference_to_camera", "labels", "camera_mask", "reference_to_lidar")
    for index in range(2):
        one = replace(batch, **{name: getattr(batch, name)[index : index + 1] for name in names}, meta=batch.meta[index:][:1])
        torch.testing.assert_close(toy.predict(one).logits[-1][0], both[index], rtol=1e-3, atol=1e-3)


def test_predictions_depend_on_images_and_cameras(toy: SurroundOcc, batch: OccupancyBatch) -> None:
    plain = toy.predict(batch).logits[-1]
    assert not torch.allclose(toy.predict(replace(batch, images=batch.images.flip(0))).logits[-1], plain)
    assert not torch.allclose(toy.predict(replace(batch, projection=batch.projection.roll(1, dims=1))).logits[-1], plain)


def test_every_trained_parameter_gets_a_gradient(batch: OccupancyBatch) -> None:
    model = build("toy", SMALL).train()
    sum(model.loss(batch).values()).backward()
    lost = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    # equal values at all points of a head at first: offsets and weights start with zero matrices, not zero gradients
    assert not lost
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == [
        f"head.transformer.{i}.reference_points.{kind}" for i in range(2) for kind in ("weight", "bias")
    ]


def test_rendering_is_attached_to_the_finest_scale(batch: OccupancyBatch) -> None:
    model = build("toy", SMALL, gaussrender={"bev_reduction": 8, "image_reduction": 2}, renderer="cpu").train()
    assert model.gaussrender is not None and model.gaussrender.grid == SMALL
    assert model.head.renderer is model.renderer is model.gaussrender.renderer
    losses = model.loss(batch)
    rendered = [value for name, value in losses.items() if name.startswith("loss_render_")]
    assert len(rendered) == 4
    torch.stack(rendered).sum().backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"head.occ.2.weight", "head.deblocks.4.0.weight", "head.renderer_prep.decoder.mlp_coarse.4.weight"} <= touched
    assert "head.occ.0.weight" not in touched and "head.occ.1.weight" not in touched
    assert any(name.startswith("img_backbone.") for name in touched)


def test_rendering_changes_no_prediction(toy: SurroundOcc, batch: OccupancyBatch) -> None:
    rendered = build("toy", SMALL, gaussrender={})
    rendered.load_state_dict(toy.state_dict(), strict=False)
    assert torch.equal(rendered.eval().predict(batch).logits[-1], toy.predict(batch).logits[-1])


def test_training_lowers_the_loss() -> None:
    batch = surround_batch(SMALL, width=104, height=64)
    model = build("toy", SMALL).train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=2e-3)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = torch.stack(list(model.loss(batch).values())).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


def test_the_head_runs_in_float32_under_autocast(toy: SurroundOcc, batch: OccupancyBatch) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = toy.predict(batch)
    assert prediction.logits[-1].dtype == torch.float32 and prediction.features is not None
    assert prediction.features.dtype == torch.float32


def test_fewer_cameras_than_codes(toy: SurroundOcc) -> None:
    one = surround_batch(SMALL, cameras=1, width=104, height=64)
    assert torch.isfinite(toy.predict(one).logits[-1]).all()


def test_wrong_input_is_named(toy: SurroundOcc, batch: OccupancyBatch) -> None:
    with pytest.raises(ValueError, match=r"images must be \[B, V, 3, H, W\]"):
        toy.predict(replace(batch, images=batch.images[0]))
    with pytest.raises(ValueError, match="7 cameras, the model was built for 1 to 6"):
        toy.predict(replace(batch, images=batch.images[:, [0, 1, 2, 3, 4, 5, 0]]))
    with pytest.raises(ValueError, match=r"projection must be \[2, 6, 4, 4\]"):
        toy.predict(replace(batch, projection=batch.projection[:, :5]))
    with pytest.raises(ValueError, match="not a multiple of 4, which 2 volumes need"):
        build("toy", toy_grid().coarsened(2))
    with pytest.raises(ValueError, match="2 volumes need as many layers"):
        build("toy", SMALL, layers=(1, 2, 3))
    with pytest.raises(ValueError, match="must be multiples of"):
        build("toy", SMALL, dims=(32, 66))
    with pytest.raises(ValueError, match="unknown SurroundOcc size 'huge'"):
        surroundocc_config("huge", SMALL)  # type: ignore[arg-type]
