"""TPVFormer: published parameters, geometry, and the behaviour of a model that can be trained here."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import pytest
import torch
from grids import kitti360_grid, occ3d_grid, surroundocc_grid
from surround_rig import surround_batch, toy_grid
from torch import Tensor

from baselines.interface import OccupancyBatch, OccupancyGrid
from baselines.model import OccupancyModel, TrainingProgress
from baselines.ops.camera_attention import camera_views, project
from baselines.tpvformer import TPVFormer, tpvformer_config, trainable_parameters
from baselines.tpvformer.aggregator import TPVAggregator
from baselines.tpvformer.attention import HybridAttention, ImageCrossAttention
from baselines.tpvformer.geometry import TPVShape, reference_points_2d, reference_points_3d

OCC3D = occ3d_grid()
SURROUNDOCC = surroundocc_grid()
KITTI360 = kitti360_grid()
# The behaviour of the toy model is tested on a quarter of its voxels along each plane and on small images.
SMALL = toy_grid().coarsened(2)


def build(size: str, grid: OccupancyGrid, **options: Any) -> TPVFormer:
    from mmdet3d.registry import MODELS

    torch.manual_seed(0)
    return MODELS.build(tpvformer_config(size, grid) | options)


@pytest.fixture(scope="module")
def batch() -> OccupancyBatch:
    return surround_batch(SMALL, batch=2, width=104, height=64)


@pytest.fixture(scope="module")
def toy() -> TPVFormer:
    """The toy model in evaluation mode, with attentions whose offsets depend on the tokens."""
    model = build("toy", SMALL)
    for name, parameter in model.named_parameters():
        if "sampling_offsets.weight" in name or "attention_weights" in name or "sampling_offsets.0.weight" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


# Published parameters ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "grid,rendering,trained,entries",
    [
        (OCC3D, {}, 62_604_589, 820),
        (OCC3D, None, 62_465_552, 812),
        (SURROUNDOCC, {}, 62_604_075, 820),
        (SURROUNDOCC, None, 62_465_295, 812),
        pytest.param(KITTI360, {}, 64_885_551, 820, marks=pytest.mark.slow),
        pytest.param(KITTI360, None, 64_746_257, 812, marks=pytest.mark.slow),
    ],
)
def test_paper_model_has_the_published_parameters(
    grid: OccupancyGrid, rendering: dict[str, Any] | None, trained: int, entries: int
) -> None:
    model = build("paper", grid, gaussrender=rendering)
    assert trainable_parameters(model) == trained
    found = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert len(found) == entries
    assert found == published_shapes(grid, rendering is not None)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert frozen == 327_744  # stem, first stage and the scale and shift of every batch norm


def published_shapes(grid: OccupancyGrid, rendering: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published state dict, written out from its description."""
    out: dict[str, tuple[int, ...]] = {}

    def norm(prefix: str, channels: int) -> None:
        out.update({f"{prefix}.{n}": (channels,) for n in ("weight", "bias", "running_mean", "running_var")})
        out[f"{prefix}.num_batches_tracked"] = ()

    def linear(prefix: str, outputs: int, inputs: int) -> None:
        out[f"{prefix}.weight"], out[f"{prefix}.bias"] = (outputs, inputs), (outputs,)

    out["img_backbone.conv1.weight"] = (64, 3, 7, 7)
    norm("img_backbone.bn1", 64)
    inputs = 64
    for stage, (blocks, planes) in enumerate(((3, 64), (4, 128), (23, 256), (3, 512)), start=1):
        for block in range(blocks):
            prefix = f"img_backbone.layer{stage}.{block}"
            out[f"{prefix}.conv1.weight"] = (planes, inputs, 1, 1)
            out[f"{prefix}.conv2.weight"] = (planes, planes, 3, 3)
            out[f"{prefix}.conv3.weight"] = (planes * 4, planes, 1, 1)
            for n, channels in ((1, planes), (2, planes), (3, planes * 4)):
                norm(f"{prefix}.bn{n}", channels)
            if stage >= 3:
                out[f"{prefix}.conv2.conv_offset.weight"] = (27, planes, 3, 3)
                out[f"{prefix}.conv2.conv_offset.bias"] = (27,)
            if block == 0:
                out[f"{prefix}.downsample.0.weight"] = (planes * 4, inputs, 1, 1)
                norm(f"{prefix}.downsample.1", planes * 4)
            inputs = planes * 4
    for i, channels in enumerate((512, 1024, 2048)):
        out[f"img_neck.lateral_convs.{i}.conv.weight"] = (256, channels, 1, 1)
        out[f"img_neck.lateral_convs.{i}.conv.bias"] = (256,)
    for i in range(4):
        out[f"img_neck.fpn_convs.{i}.conv.weight"] = (256, 256, 3, 3)
        out[f"img_neck.fpn_convs.{i}.conv.bias"] = (256,)

    w, h, z = (n // 2 for n in grid.shape)
    out |= {
        "head.tpv_embedding_hw.weight": (h * w, 256),
        "head.tpv_embedding_zh.weight": (z * h, 256),
        "head.tpv_embedding_wz.weight": (w * z, 256),
        "head.level_embeds": (4, 256),
        "head.cams_embeds": (6, 256),
        "head.positional_encoding.row_embed.weight": (h, 128),
        "head.positional_encoding.col_embed.weight": (w, 128),
        "head.tpv_mask_hw": (1, h, w),
        "head.encoder.ref_3d_hw": (1, 4, h * w, 3),
        "head.encoder.ref_3d_zh": (1, 32, z * h, 3),
        "head.encoder.ref_3d_wz": (1, 32, w * z, 3),
        "head.encoder.ref_2d_hw": (1, h * w, 1, 2),
        "head.encoder.ref_2d_zh": (1, z * h, 1, 2),
        "head.encoder.ref_2d_wz": (1, w * z, 1, 2),
    }
    for layer in range(3):
        prefix = f"head.encoder.layers.{layer}"
        linear(f"{prefix}.attentions.0.sampling_offsets", 128, 512)
        linear(f"{prefix}.attentions.0.attention_weights", 64, 512)
        linear(f"{prefix}.attentions.0.value_proj", 256, 256)
        linear(f"{prefix}.attentions.0.output_proj", 256, 256)
        for plane, points in enumerate((8, 64, 64)):
            attention = f"{prefix}.attentions.1.deformable_attention"
            linear(f"{attention}.sampling_offsets.{plane}", 8 * 4 * points * 2, 256)
            linear(f"{attention}.attention_weights.{plane}", 8 * 4 * points, 256)
        linear(f"{prefix}.attentions.1.deformable_attention.value_proj", 256, 256)
        linear(f"{prefix}.attentions.1.output_proj", 256, 256)
        linear(f"{prefix}.ffns.0.layers.0.0", 512, 256)
        linear(f"{prefix}.ffns.0.layers.1", 256, 512)
        for n in range(3):
            out[f"{prefix}.norms.{n}.weight"] = out[f"{prefix}.norms.{n}.bias"] = (256,)
    linear("aggregator.decoder.0", 512, 256)
    linear("aggregator.decoder.2", 256, 512)
    linear("aggregator.classifier", grid.num_classes, 256)
    if rendering:
        out["renderer.bg_color"] = out["aggregator.renderer.bg_color"] = (19,)
        for i, outputs in ((0, 256), (2, 256), (4, 11 + grid.num_classes)):
            linear(f"aggregator.renderer_prep.decoder.mlp_coarse.{i}", outputs, 256)
    return out


# Geometry ----------------------------------------------------------------------------------------------------------


def test_reference_points() -> None:
    shape = TPVShape(h=6, w=4, z=2)
    points = reference_points_3d(shape, (80.0, 60.0, 6.4), (4, 32, 32))
    assert {name: tuple(p.shape) for name, p in points.items()} == {
        "hw": (1, 4, 24, 3),
        "zh": (1, 32, 12, 3),
        "wz": (1, 32, 8, 3),
    }
    # h * W + w with w along x and h along y; pillars start and end half a metre inside.
    torch.testing.assert_close(points["hw"][0, 0, 2 * 4 + 1], torch.tensor([1.5 / 4, 2.5 / 6, 0.5 / 6.4]))
    torch.testing.assert_close(points["hw"][0, 3, 2 * 4 + 1], torch.tensor([1.5 / 4, 2.5 / 6, 5.9 / 6.4]))
    # z * H + h, pillar along x
    torch.testing.assert_close(points["zh"][0, 0, 1 * 6 + 3], torch.tensor([0.5 / 80, 3.5 / 6, 1.5 / 2]))
    torch.testing.assert_close(points["zh"][0, 31, 1 * 6 + 3], torch.tensor([79.5 / 80, 3.5 / 6, 1.5 / 2]))
    # w * Z + z, pillar along y
    torch.testing.assert_close(points["wz"][0, 0, 3 * 2 + 1], torch.tensor([3.5 / 4, 0.5 / 60, 1.5 / 2]))
    torch.testing.assert_close(points["wz"][0, 31, 3 * 2 + 1], torch.tensor([3.5 / 4, 59.5 / 60, 1.5 / 2]))
    flat = reference_points_2d(shape)
    torch.testing.assert_close(flat["hw"][0, 2 * 4 + 1, 0], torch.tensor([1.5 / 4, 2.5 / 6]))
    torch.testing.assert_close(flat["zh"][0, 1 * 6 + 3, 0], torch.tensor([3.5 / 6, 1.5 / 2]))


def test_projection_and_visibility() -> None:
    """A camera at the origin looking along +x, 200 x 100 pixels, focal length 100."""
    camera = torch.tensor([[100.0, -100.0, 0, 0], [50.0, 0, -100.0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]])
    world = torch.tensor([[10.0, 0, 0], [10, 5, 2], [-10, 0, 0], [10, 15, 0], [10, 0, 6]])
    lower, upper = (-40.0, -40.0, -10.0), (40.0, 40.0, 10.0)
    points = (world - torch.tensor(lower)) / (torch.tensor(upper) - torch.tensor(lower))
    position, inside = project(points[None, None], lower, upper, camera[None, None], (200, 100))
    assert inside[0, 0, :, 0].tolist() == [True, True, False, False, False]
    torch.testing.assert_close(position[0, 0, 0, 0], torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(position[0, 0, 1, 0], torch.tensor([50 / 200, 30 / 100]))
    assert position[0, 0, 2].abs().max() > 100  # behind the camera: far outside any map


def test_camera_views_list_what_each_camera_of_each_sample_sees() -> None:
    inside = torch.zeros(2, 2, 5, 3, dtype=torch.bool)
    inside[0, 0, [1, 3], 2] = True
    inside[0, 1, 3, 0] = True
    inside[1, 0, [0, 2, 4]] = True
    position = torch.rand(2, 2, 5, 3, 2)
    views = camera_views(position, inside)
    assert [row[ok].tolist() for row, ok in zip(views.index, views.valid, strict=True)] == [[1, 3], [3], [0, 2, 4], []]
    assert views.cameras.tolist() == [[1, 1, 1, 2, 1], [1, 1, 1, 1, 1]]
    torch.testing.assert_close(views.anchors[0, 1], position[0, 0, 3])
    assert (views.anchors[1, 1] < -1).all()


def test_a_plane_token_lights_its_voxels() -> None:
    """A token at h = 10, w = 20 belongs to x in 40, 41 and y in 20, 21 (half as strong around them)."""
    aggregator = TPVAggregator(TPVShape(h=30, w=40, z=4), 2, 3, 5, 6, num_classes=4, checkpointing=False)
    planes = [torch.zeros(1, n, 3) for n in aggregator.shape.tokens]
    before, _ = aggregator(planes)
    planes[0][0, 10 * 40 + 20] = 5.0
    after, _ = aggregator(planes)
    change = (after - before)[0].abs().sum(dim=0)
    assert change.shape == (80, 60, 8)
    touched = (change > 1e-6).nonzero()
    assert touched.amin(dim=0).tolist() == [39, 19, 0] and touched.amax(dim=0).tolist() == [42, 22, 7]
    assert (change[40:42, 20:22] > change[39, 20].max()).all()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_aggregator_equals_the_order_of_the_paper(checkpointing: bool) -> None:
    """Up-sample, add, then decode: what the first layer's place among the planes must not change."""
    torch.manual_seed(0)
    shape = TPVShape(h=5, w=4, z=3)
    aggregator = TPVAggregator(shape, 2, 6, 7, 8, num_classes=4, checkpointing=checkpointing).double()
    planes = [torch.randn(2, n, 6, dtype=torch.float64, requires_grad=True) for n in shape.tokens]

    def upsampled(plane: Tensor, rows: int, columns: int) -> Tensor:
        image = plane.transpose(1, 2).reshape(2, 6, rows, columns)
        return torch.nn.functional.interpolate(image, scale_factor=2, mode="bilinear")

    hw, zh, wz = upsampled(planes[0], 5, 4), upsampled(planes[1], 3, 5), upsampled(planes[2], 4, 3)
    total = (
        torch.einsum("bcyx,z->bxyzc", hw, torch.ones(6, dtype=torch.float64))
        + torch.einsum("bczy,x->bxyzc", zh, torch.ones(8, dtype=torch.float64))
        + torch.einsum("bcxz,y->bxyzc", wz, torch.ones(10, dtype=torch.float64))
    )
    features = aggregator.decoder(total)
    expected = aggregator.classifier(features).movedim(-1, 1)
    logits, found = aggregator(planes)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(found, features.movedim(-1, 1))
    for a, b in zip(torch.autograd.grad(logits.sin().sum(), planes), torch.autograd.grad(expected.sin().sum(), planes),
                    strict=True):  # fmt: skip
        torch.testing.assert_close(a, b)


# Attention ---------------------------------------------------------------------------------------------------------


def test_sampling_starts_as_published() -> None:
    hybrid = HybridAttention(16, heads=8, points=4)
    hybrid.init_sampling()
    offsets = hybrid.sampling_offsets.bias.view(8, 2, 4, 2)
    torch.testing.assert_close(offsets[0, 1, 2], torch.tensor([3.0, 0.0]))
    torch.testing.assert_close(offsets[1, 0, 3], torch.tensor([4.0, 4.0]))
    torch.testing.assert_close(offsets[2, 0, 0], torch.tensor([0.0, 1.0]), atol=1e-6, rtol=0)
    image = ImageCrossAttention(16, heads=8, levels=2, points=(8, 16, 16), anchors=(4, 8, 8)).deformable_attention
    image.init_sampling()
    offsets = image.sampling_offsets[0].bias.view(8, 2, 4, 2, 2)  # head, level, anchor, point of the anchor, xy
    torch.testing.assert_close(offsets[3, 1, :, 0], torch.tensor([-1.0, 1.0]).expand(4, 2))
    torch.testing.assert_close(offsets[3, 1, :, 1], torch.tensor([-2.0, 2.0]).expand(4, 2))
    assert not image.attention_weights[1].weight.any() and not image.sampling_offsets[2].weight.any()


def test_image_attention_is_its_definition() -> None:
    """Against one token, camera, head, level and point after the other."""
    torch.manual_seed(1)
    dim, heads, levels, points, anchors = 8, 2, [(3, 5), (2, 3)], (4, 4, 4), (2, 4, 1)
    module = ImageCrossAttention(dim, heads, 2, points, anchors, dropout=0.0).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    sizes, batch, cameras = (5, 3, 2), 2, 3
    query = torch.randn(batch, sum(sizes), dim, dtype=torch.float64)
    tokens = torch.randn(batch * cameras, 21, dim, dtype=torch.float64)
    positions = [torch.rand(batch, cameras, n, a, 2, dtype=torch.float64) for n, a in zip(sizes, anchors, strict=True)]
    insides = [torch.rand(p.shape[:-1]) < 0.4 for p in positions]
    views = [camera_views(p, i) for p, i in zip(positions, insides, strict=True)]
    out = module(query, sizes, tokens, levels, views)

    attention = module.deformable_attention
    value = attention.value_proj(tokens).view(batch, cameras, 21, heads, dim // heads)
    slots = torch.zeros_like(query)
    first = 0
    for plane, n in enumerate(sizes):
        for b in range(batch):
            for token in range(n):
                q = query[b, first + token]
                offset = attention.sampling_offsets[plane](q).view(heads, 2, points[plane], 2)
                weight = attention.attention_weights[plane](q).view(heads, -1).softmax(-1).view(heads, 2, points[plane])
                seeing = [c for c in range(cameras) if insides[plane][b, c, token].any()]
                for c in seeing:
                    for level, (height, width) in enumerate(levels):
                        start = 0 if level == 0 else 15
                        maps = value[b, c, start : start + height * width].view(height, width, heads, -1)
                        for head in range(heads):
                            for p in range(points[plane]):
                                anchor = positions[plane][b, c, token, p // (points[plane] // anchors[plane])]
                                grid = (anchor + offset[head, level, p] / torch.tensor([width, height])) * 2 - 1
                                sample = torch.nn.functional.grid_sample(
                                    maps[:, :, head].permute(2, 0, 1)[None], grid[None, None, None], align_corners=False
                                )[0, :, 0, 0]
                                part = slice(head * dim // heads, (head + 1) * dim // heads)
                                slots[b, first + token, part] += weight[head, level, p] * sample / len(seeing)
        first += n
    torch.testing.assert_close(out, query + module.output_proj(slots))


def test_hybrid_attention_is_its_definition() -> None:
    """The two queues one after the other, then averaged, as published."""
    from baselines.ops import deformable_attention

    torch.manual_seed(2)
    module = HybridAttention(8, heads=2, points=3, dropout=0.0).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    query = torch.randn(2, 12, 8, dtype=torch.float64)
    position = torch.randn(1, 12, 8, dtype=torch.float64)
    reference = reference_points_2d(TPVShape(h=3, w=4, z=1))["hw"].double()
    both = torch.cat([query, query + position], dim=-1)
    offsets = module.sampling_offsets(both).view(2, 12, 2, 2, 1, 3, 2)
    weights = module.attention_weights(both).view(2, 12, 2, 2, 1, 3).softmax(dim=-1)
    value = module.value_proj(query).view(2, 12, 2, 4)
    queues = [
        deformable_attention(
            value,
            [(3, 4)],
            reference[:, :, None, None] + offsets[:, :, :, queue] / torch.tensor([4.0, 3.0]),
            weights[:, :, :, queue],
        )
        for queue in range(2)
    ]
    expected = query + module.output_proj((queues[0] + queues[1]) / 2)
    torch.testing.assert_close(module(query, position, reference, (3, 4)), expected)


# The model ---------------------------------------------------------------------------------------------------------


def test_toy_prediction(toy: TPVFormer, batch: OccupancyBatch) -> None:
    prediction = toy.predict(batch)
    assert prediction.logits[0].shape == (2, 18, 50, 50, 4)
    assert prediction.features is not None and prediction.features.shape[2:] == (50, 50, 4)
    assert torch.isfinite(prediction.logits[0]).all()
    answers = toy.val_step({"batch": batch})
    assert len(answers) == 2
    assert torch.equal(answers[1]["labels"], prediction.labels[1])
    assert torch.equal(answers[1]["logits"], prediction.logits[-1][1])


def test_a_batch_is_its_samples(toy: TPVFormer, batch: OccupancyBatch) -> None:
    """Each sample is sampled where its own cameras see it."""
    together = toy.predict(batch).logits[0]
    for i in range(2):
        alone = replace(
            batch,
            **{
                name: getattr(batch, name)[i : i + 1]
                for name in ("images", "projection", "intrinsics", "reference_to_camera", "labels")
            },
        )
        torch.testing.assert_close(toy.predict(alone).logits[0], together[i : i + 1], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_predictions_depend_on_images_and_cameras(toy: TPVFormer, batch: OccupancyBatch) -> None:
    base = toy.predict(batch).logits[0]
    other_images = toy.predict(replace(batch, images=batch.images.flip(0))).logits[0]
    other_cameras = toy.predict(replace(batch, projection=batch.projection.flip(1))).logits[0]
    assert (base - other_images).abs().max() > 1e-3
    assert (base - other_cameras).abs().max() > 1e-3


def test_every_parameter_is_trained(batch: OccupancyBatch) -> None:
    model = build("toy", SMALL).train()
    for name, module in model.named_modules():
        if name.endswith("bn2"):  # zero at the start, which shuts the branch before it off
            torch.nn.init.ones_(module.weight)
        if "sampling_offsets" in name or "attention_weights" in name:
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.normal_(module.weight, std=0.05)
    losses = model(batch, mode="loss")
    assert losses and all("loss" in name for name in losses)
    sum(losses.values()).backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_rendered_losses_reach_the_image_backbone(batch: OccupancyBatch) -> None:
    one = replace(
        batch,
        **{name: getattr(batch, name)[:1] for name in ("images", "projection", "intrinsics", "reference_to_camera", "labels")},
    )
    options = dict(with_bev=False, with_bev_depth=False, image_reduction=4)
    model = build("toy", SMALL, gaussrender=options, renderer="reference").train()
    losses = model(one, mode="loss")
    rendered = {n: v for n, v in losses.items() if n.startswith("loss_render")}
    assert set(rendered) == {"loss_render_image", "loss_render_depth"} and len(losses) > len(rendered)
    sum(rendered.values()).backward()
    assert model.img_backbone.conv1.weight.grad.abs().sum() > 0
    assert model.aggregator.renderer_prep.decoder.mlp_coarse[0].weight.grad.abs().sum() > 0
    names = [n for n in model.state_dict() if "renderer" in n]
    assert {"renderer.bg_color", "aggregator.renderer.bg_color"} < set(names) and len(names) == 8


def test_training_lowers_the_loss(batch: OccupancyBatch) -> None:
    from mmengine.optim import OptimWrapper

    model = build("toy", SMALL).train()
    optimizer = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=2e-3))
    values = [model.train_step({"batch": batch}, optimizer)["loss"].item() for _ in range(4)]
    assert values[-1] < 0.8 * values[0]


def test_the_head_runs_in_float32_under_autocast(toy: TPVFormer, batch: OccupancyBatch) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = toy.predict(batch).logits[0]
    assert logits.dtype == torch.float32
    assert (logits - toy.predict(batch).logits[0]).abs().max() < 0.5


def test_camera_draws_follow_seed_and_iteration(toy: TPVFormer) -> None:
    def draw(model: OccupancyModel, iteration: int) -> Tensor:
        model.set_progress(iteration, epoch=0)
        return torch.rand(4, generator=model.camera_generator())

    assert torch.equal(draw(toy, 7), draw(toy, 7))
    assert not torch.equal(draw(toy, 7), draw(toy, 8))
    toy.camera_seed = 1
    assert not torch.equal(draw(toy, 7), torch.rand(4, generator=torch.Generator().manual_seed(7)))
    other = draw(toy, 7)
    toy.camera_seed = 0
    assert not torch.equal(draw(toy, 7), other)


def test_dropout_ends_with_its_epochs() -> None:
    model = build("toy", SMALL, dropout=0.1, dropout_epochs=1).train()

    def dropouts() -> set[bool]:
        return {m.training for m in model.modules() if isinstance(m, torch.nn.Dropout)}

    assert dropouts() == {True}
    model.set_progress(iteration=10, epoch=1)
    assert dropouts() == {False} and model.training and model.img_backbone.bn1.training
    model.eval().train()  # what a validation between epochs does
    assert dropouts() == {False}
    model.set_progress(iteration=0, epoch=0)
    assert dropouts() == {True}


def test_progress_hook_counts_passes_over_the_data() -> None:
    from types import SimpleNamespace

    seen = []
    model = SimpleNamespace(set_progress=lambda iteration, epoch: seen.append((iteration, epoch)))
    for iteration in (0, 4, 5, 12):
        runner = SimpleNamespace(model=model, iter=iteration, train_dataloader=[None] * 5)
        TrainingProgress().before_train_iter(runner, batch_idx=0)
    assert seen == [(0, 0), (4, 0), (5, 1), (12, 2)]


def test_wrong_input_is_named(toy: TPVFormer, batch: OccupancyBatch) -> None:
    with pytest.raises(ValueError, match=r"images must be \[B, V, 3, H, W\], got \[6, 3, 64, 104\]"):
        toy.predict(replace(batch, images=batch.images[0]))
    with pytest.raises(ValueError, match="images have 7 cameras, the model was built for 1 to 6"):
        toy.predict(replace(batch, images=batch.images[:, [0, 1, 2, 3, 4, 5, 0]]))
    with pytest.raises(ValueError, match=r"projection must be \[2, 6, 4, 4\]"):
        toy.predict(replace(batch, projection=batch.projection[:, :3]))
    with pytest.raises(ValueError, match="unknown mode 'train'"):
        toy(batch, mode="train")
    with pytest.raises(ValueError, match="not a multiple of the up-sampling 3"):
        build("toy", SMALL, upsampling=3)
    with pytest.raises(ValueError, match="unknown TPVFormer size 'huge'"):
        tpvformer_config("huge", SMALL)  # type: ignore[arg-type]


def test_fewer_cameras_than_codes(toy: TPVFormer) -> None:
    assert toy.predict(surround_batch(SMALL, cameras=1)).logits[0].shape == (1, 18, 50, 50, 4)


@pytest.mark.slow
def test_paper_model_runs() -> None:
    """The published sizes on small images, forward only."""
    model = build("paper", OCC3D).eval()
    logits = model.predict(surround_batch(OCC3D, width=192, height=96)).logits[0]
    assert logits.shape == (1, 18, 200, 200, 16) and torch.isfinite(logits).all()


def test_training_is_repeatable(batch: OccupancyBatch) -> None:
    """Bit by bit, gradients included, with several threads."""

    def gradients() -> list[Tensor]:
        model = build("toy", SMALL).train()
        sum(model(batch, mode="loss").values()).backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    assert all(torch.equal(a, b) for a, b in zip(gradients(), gradients(), strict=True))


def test_mmengine_runner_resumes_where_it_stopped(tmp_path: Any) -> None:
    """One iteration, stop, resume for a second: the weights, buffers and progress of two in a row."""
    from experiments.cell.engine import CellRunner

    samples = [{"batch": surround_batch(SMALL, width=104, height=64)}]

    def run(folder: str, iterations: int, resume: bool = False) -> TPVFormer:
        model = build("toy", SMALL, camera_seed=3)
        CellRunner(
            model=model,
            work_dir=str(tmp_path / folder),
            train_dataloader=torch.utils.data.DataLoader(samples, batch_size=1, collate_fn=operator.itemgetter(0)),
            train_cfg={"type": "IterBasedTrainLoop", "max_iters": iterations},
            optim_wrapper={"optimizer": {"type": "SGD", "lr": 1e-4, "momentum": 0.9}},
            default_hooks={
                "checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": 1},
                "logger": None,
                "timer": None,
            },
            custom_hooks=[TrainingProgress()],
            default_scope="mmdet3d",
            visualizer={"type": "Visualizer", "vis_backends": []},
            log_level="ERROR",
            resume=resume,
            experiment_name=f"{folder}-{iterations}",
            randomness={"seed": 0},
        ).train()
        return model

    straight = run("straight", 2)
    run("stopped", 1)
    resumed = run("stopped", 2, resume=True)
    assert (straight.iteration, straight.epoch) == (resumed.iteration, resumed.epoch) == (1, 1)
    fresh = build("toy", SMALL).state_dict()
    assert not torch.equal(fresh["head.tpv_embedding_hw.weight"], straight.state_dict()["head.tpv_embedding_hw.weight"])
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
