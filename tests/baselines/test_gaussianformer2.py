"""GaussianFormer-2 and its first stage: published parameters and names, parts against plain formulas, and behaviour."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from grids import occ3d_grid, surroundocc_grid
from surround_rig import surround_batch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.checkpoints import CheckpointError, load_released, load_what_fits
from baselines.gaussianflowocc.lanes import own_axes
from baselines.gaussianformer2 import (
    GaussianFormer2,
    GaussianFormer2Init,
    gaussianformer2_config,
    gaussianformer2_init_config,
)
from baselines.gaussianformer2.anchors import CLASSES, OPACITY, ROTATION, SCALE, Space, space_of
from baselines.gaussianformer2.config import check_options
from baselines.gaussianformer2.encoder import FIXED, ImageAttention, KeyPoints, views_of
from baselines.gaussianformer2.losses import voxel_losses
from baselines.gaussianformer2.rays import (
    drawn_points,
    exactly,
    farthest_points,
    half_mirrored,
    ray_loss,
    ray_targets,
)
from baselines.gaussianformer2.recipe import SIZES
from baselines.gaussianformer2.sparse import SubmanifoldConvolution, neighbours
from baselines.images import imagenet_rgb
from baselines.interface import OccupancyBatch, OccupancyGrid
from baselines.losses import OccupancyLoss
from baselines.ops.deform_attn import deformable_attention

SURROUNDOCC = surroundocc_grid()
SMALL = replace(SURROUNDOCC, lower=(-16.0, -16.0, -3.0), upper=(16.0, 16.0, 5.0), voxel_size=2.0)
IMAGE = dict(width=104, height=64)
FEW = dict(pixel_anchors=40, learned_anchors=30, bins=16, depth_range=(1.0, 24.0))
RENDERING = {"bev_reduction": 4, "image_reduction": 2}


def build(size: str, grid: OccupancyGrid, **options: Any) -> GaussianFormer2:
    from mmdet3d.registry import MODELS

    torch.manual_seed(0)
    return MODELS.build(gaussianformer2_config(size, grid) | options)  # type: ignore[arg-type]


def build_init(size: str, grid: OccupancyGrid, **options: Any) -> GaussianFormer2Init:
    from mmdet3d.registry import MODELS

    torch.manual_seed(0)
    return MODELS.build(gaussianformer2_init_config(size, grid) | options)  # type: ignore[arg-type]


def small(**options: Any) -> GaussianFormer2:
    """Attention begins with weights that depend on what asks."""
    model = build("toy", SMALL, **FEW | options)
    for name, parameter in model.named_parameters():
        if "weights_fc.weight" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def small_init(**options: Any) -> GaussianFormer2Init:
    return build_init("toy", SMALL, bins=16, depth_range=(1.0, 24.0), **options)


@pytest.fixture(scope="module")
def batch() -> OccupancyBatch:
    return surround_batch(SMALL, batch=2, **IMAGE)


@pytest.fixture(scope="module")
def toy() -> GaussianFormer2:
    return small().eval()


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def trained(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


# Published parameters ----------------------------------------------------------------------------------------------


def test_paper_model_has_the_parameters_of_the_published_configuration() -> None:
    with torch.device("meta"):
        model, first = build("paper", SURROUNDOCC), build_init("paper", SURROUNDOCC)
        rendered = build("paper", SURROUNDOCC, gaussrender={})
    assert (count(model), trained(model)) == (122_984_805, 71_571_366)
    assert (count(model.img_backbone), trained(model.img_backbone)) == (44_304_894, 43_977_150)
    assert count(model.img_neck) == 1_049_472
    assert (count(model.encoder), count(model.encoder.anchor_encoder)) == (26_365_544, 122_880)
    sizes = [count(layer) for layer in model.encoder.layers]
    assert sizes == [0, 64_354, 0, 256, 0, 131_712, 0, 256, 0, 6_161_664, 0, 256, 0, 131_712, 0, 256, 70_200] * 4
    assert sizes[9] == 3 * (128 * 128 * 125 + 128 + 2 * 128) + 128 * 129
    lifter = model.lifter
    assert list(lifter.anchor.shape) == [6400, 25] and list(lifter.random_anchors.shape) == [6400, 28]
    assert trained(lifter) == lifter.random_anchors.numel() == 179_200
    frozen = count(lifter.initialize_backbone) + count(lifter.projection) + lifter.anchor.numel()
    assert count(lifter) == 179_200 + frozen + lifter.instance_feature.numel()
    assert (count(first), trained(first)) == (49_287_295, 48_959_551)
    decoder = 2 * (17 * 17 + 17) + 18 * (11 + 17)
    assert count(rendered) - count(model) == decoder


@pytest.mark.parametrize(
    ("size", "pixel", "learned"), [("prob-64", 4000, 2400), ("prob-128", 6400, 6400), ("prob-256", 19200, 6400)]
)
def test_published_sizes(size: str, pixel: int, learned: int) -> None:
    with torch.device("meta"):
        model = build("paper", SURROUNDOCC, **SIZES[size])
    assert (len(model.lifter.anchor), len(model.lifter.random_anchors)) == (pixel, learned)
    assert trained(model) == 71_571_366 - (6400 - learned) * 28
    check_options(gaussianformer2_config("paper", SURROUNDOCC) | SIZES[size])


def test_paper_model_has_the_published_names() -> None:
    with torch.device("meta"):
        found = {name: list(value.shape) for name, value in build("paper", SURROUNDOCC).state_dict().items()}
    rays, layer = "lifter.initialize_backbone", "encoder.layers"
    published = {
        "img_backbone.layer4.2.conv2.conv_offset.weight": [27, 512, 3, 3],
        "img_backbone.layer1.0.downsample.1.running_var": [256],
        "img_neck.lateral_convs.2.conv.weight": [128, 2048, 1, 1],
        "img_neck.fpn_convs.3.conv.bias": [128],
        f"{rays}.img_backbone.layer3.22.conv3.weight": [1024, 256, 1, 1],
        f"{rays}.img_neck.deblocks.0.0.weight": [128, 256, 2, 2],
        f"{rays}.img_neck.deblocks.3.0.weight": [2048, 128, 4, 4],
        f"{rays}.img_neck.deblocks.2.1.running_mean": [128],
        "lifter.anchor": [6400, 25],
        "lifter.random_anchors": [6400, 28],
        "lifter.instance_feature": [12800, 128],
        "lifter.projection.1.weight": [129, 512],
        "encoder.anchor_encoder.semantics_fc.0.weight": [128, 17],
        "encoder.anchor_encoder.output_fc.5.bias": [128],
        f"{layer}.1.kps_generator.learnable_fc.weight": [18, 128],
        f"{layer}.18.camera_encoder.0.weight": [128, 12],
        f"{layer}.18.weights_fc.bias": [4 * 4 * 13],
        f"{layer}.35.output_proj.weight": [128, 128],
        f"{layer}.20.weight": [128],
        f"{layer}.5.layers.0.0.weight": [512, 128],
        f"{layer}.64.layers.1.weight": [128, 512],
        f"{layer}.60.layer.6.weight": [128, 5, 5, 5, 128],
        f"{layer}.60.layer.7.bias": [128],
        f"{layer}.9.pc_range": [6],
        f"{layer}.9.grid_size": [3],
        f"{layer}.26.output_proj.bias": [128],
        f"{layer}.67.layers.10.weight": [28, 128],
        f"{layer}.67.layers.11.scale": [28],
        "head.zero_tensor": [1],
        "head.aggregator.pc_min": [1, 3],
    }
    assert {name: found.get(name) for name in published} == published
    assert not any("depth_bins" in name or name.startswith(f"{layer}.68") for name in found)


def test_paper_structure_trains_on_small_images() -> None:
    """Every published block at its width, of two cameras and few Gaussians."""
    model = build("paper", SMALL, pixel_anchors=20, learned_anchors=20).train()
    losses = model.loss(surround_batch(SMALL, cameras=2, width=64, height=64))
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert all(p.grad is None for p in model.lifter.initialize_backbone.parameters())


# Checkpoints and the two stages ------------------------------------------------------------------------------------


def test_the_second_stage_starts_from_the_first(tmp_path: Path, batch: OccupancyBatch) -> None:
    first = small_init()
    nn.init.normal_(first.lifter.projection[1].bias)
    torch.save({"state_dict": first.state_dict()}, tmp_path / "first.pth")
    model = small()
    left = load_what_fits(model, tmp_path / "first.pth")
    assert not any(name.startswith(("lifter.initialize_backbone.", "lifter.projection.")) for name in left)
    torch.testing.assert_close(model.lifter.eval()(batch.images), first.eval().rays(batch)[0])
    before = {name: value.clone() for name, value in model.lifter.state_dict().items()}
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    torch.stack(list(model.loss(batch).values())).sum().backward()
    optimizer.step()
    changed = {name for name, value in model.lifter.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"random_anchors"}, "the first stage, the attributes at its points and the first features are frozen"


def test_a_frozen_first_stage_drifts_only_if_it_is_asked_to(batch: OccupancyBatch) -> None:
    for drifting in (False, True):
        model = small(drifting_rays=drifting).train()
        mean = model.lifter.initialize_backbone.img_neck.deblocks[0][1].running_mean
        before = mean.clone()
        model.extract(batch)
        assert torch.equal(before, mean) != drifting


def test_published_files_load(tmp_path: Path, toy: GaussianFormer2) -> None:
    """A second stage's as it is, also with mmcv's older names; of init.pth the network alone."""
    state = {name.replace(".conv_offset.", "_offset."): value for name, value in toy.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 20, "optimizer": {}}, tmp_path / "prob.pth")
    model = small(camera_seed=3)
    nn.init.zeros_(model.lifter.random_anchors)
    assert load_released(model, tmp_path / "prob.pth") == []
    assert all(torch.equal(value, toy.state_dict()[name]) for name, value in model.state_dict().items())
    init = {name.removeprefix("lifter."): value for name, value in toy.lifter.state_dict().items()}
    torch.save({"state_dict": init}, tmp_path / "init.pth")
    first = small_init()
    assert load_released(first, tmp_path / "init.pth") == []
    with pytest.raises(CheckpointError, match="trained without rendering"):
        load_released(small(gaussrender={}), tmp_path / "prob.pth")


# Parts -------------------------------------------------------------------------------------------------------------


def test_points_are_on_the_rays_of_their_pixels(batch: OccupancyBatch) -> None:
    first = small_init()
    points = first.lifter.points(batch, (4, 6))
    assert points.shape == (2, 6, 4, 6, 16, 3)
    ones = torch.ones_like(points[..., :1])
    seen = (batch.projection[:, :, None, None, None] @ torch.cat([points, ones], dim=-1)[..., None])[..., 0]
    depth = torch.linspace(1.0, 24.0, 16)
    torch.testing.assert_close(seen[..., 2], depth.expand_as(seen[..., 2]), rtol=1e-4, atol=1e-4)
    u, v = (torch.arange(6) + 0.5) * 104 / 6, (torch.arange(4) + 0.5) * 64 / 4
    torch.testing.assert_close(seen[1, 2, 3, 4, :, 0] / depth, u[4].expand(16), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(seen[1, 2, 3, 4, :, 1] / depth, v[3].expand(16), rtol=1e-4, atol=1e-3)


def test_what_rays_are_taught(batch: OccupancyBatch) -> None:
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(2, 5, 7, 3, generator=generator) * torch.tensor([40.0, 40.0, 12.0]) - torch.tensor([20.0, 20.0, 5.0])
    labels = batch.labels.clone()
    labels[:, ::2] = SMALL.ignore
    labels[:, 1::4] = 3
    targets = ray_targets(points, labels, SMALL)
    for b in range(2):
        for i in range(5):
            ray = []
            for point in points[b, i]:
                cell = [math.floor((float(p) - low) / 2.0) for p, low in zip(point, SMALL.lower, strict=True)]
                inside = all(0 <= c < n for c, n in zip(cell, SMALL.shape, strict=True))
                found = int(labels[b, cell[0], cell[1], cell[2]]) if inside else SMALL.empty
                ray.append(found not in (SMALL.empty, SMALL.ignore))
            assert targets[b, i].tolist() == [*ray, not any(ray)]
    logits = torch.randn(targets.shape, generator=generator)
    shares, expected = logits.double().exp(), 0.0
    shares = shares / shares.sum(-1, keepdim=True)
    for share, target in zip(shares.flatten().tolist(), targets.flatten().tolist(), strict=True):
        expected -= math.log(share if target else 1 - share) / targets.numel()
    assert float(ray_loss(logits, targets)) == pytest.approx(expected, rel=1e-5)


def test_points_are_drawn_as_likely_as_the_network_says() -> None:
    space = space_of(SMALL, (0.1, 1.0))
    logits = torch.tensor([0.3, 0.4, 0.1, 0.2]).log().expand(1, 100, 200, 4)
    points = torch.zeros(1, 100, 200, 3, 3)
    points[..., 0] = torch.tensor([1.0, 2.0, 3.0])
    chance = torch.rand(1, 100, 200, generator=torch.Generator().manual_seed(0))
    for farthest, shares in ((True, (0.3, 0.4, 0.3)), (False, (0.375, 0.5, 0.125))):
        drawn = drawn_points(logits, points, space, farthest, chance)[:, 0]
        assert len(drawn) == 20_000
        for number, share in enumerate(shares, start=1):
            assert float((drawn == number).float().mean()) == pytest.approx(share, abs=0.015)
    empty = logits.clone()
    empty[:, :50, :, 3] = 2.0  # nothing is likelier there
    points[:, :, :20, :, 1] = 99.0  # out of the range
    assert len(drawn_points(empty, points, space, True, chance)) == 50 * 180


def test_points_that_are_furthest_from_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(60, 3, generator=generator)
    chosen = [0]
    while len(chosen) < 9:
        nearest = [min(float((p - points[c]).norm()) for c in chosen) for p in points]
        chosen.append(max(range(60), key=nearest.__getitem__))
    assert farthest_points(points, 9).tolist() == chosen
    space = space_of(SMALL, (0.1, 1.0))
    few = exactly(points[:4], 11, space, generator)
    assert few.shape == (11, 3) and len(few.unique(dim=0)) == 11
    assert float((few[:, None] - points[:4]).norm(dim=-1).amin(dim=1).max()) < 0.6
    none = exactly(points[:0], 11, space, generator)
    assert none.shape == (11, 3) and space.inside(none).all()


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_submanifold_convolution_is_a_dense_one_on_the_occupied_cells(kernel: int) -> None:
    torch.manual_seed(0)
    shape = (5, 6, 4)
    order = torch.stack([torch.randperm(120)[:25] for _ in range(2)])
    cells = torch.stack([order // 24, order // 4 % 6, order % 4], dim=-1)
    features = torch.randn(50, 3, dtype=torch.float64, requires_grad=True)
    layer = SubmanifoldConvolution(3, 4, kernel).double()
    out = layer(features, neighbours(cells, shape, kernel))
    sample = torch.arange(2).repeat_interleave(25)
    x, y, z = cells.flatten(0, 1).unbind(-1)
    dense = torch.zeros(2, *shape, 3, dtype=torch.float64).index_put((sample, x, y, z), features)
    right = F.conv3d(dense.permute(0, 4, 1, 2, 3), layer.weight.permute(0, 4, 1, 2, 3), layer.bias, padding=kernel // 2)
    expected = right.permute(0, 2, 3, 4, 1)[sample, x, y, z]
    torch.testing.assert_close(out, expected)
    wanted = [features, *layer.parameters()]
    weights = torch.randn_like(out)
    for own, other in zip(
        torch.autograd.grad((out * weights).sum(), wanted), torch.autograd.grad((expected * weights).sum(), wanted), strict=True
    ):
        torch.testing.assert_close(own, other)


def test_several_gaussians_in_a_cell() -> None:
    torch.manual_seed(0)
    cells = torch.tensor([[[1, 1, 1], [2, 1, 1], [2, 1, 1]]])
    features = torch.randn(3, 2)
    layer = SubmanifoldConvolution(2, 2, 3)
    middle, before, behind = layer.weight[:, 1, 1, 1], layer.weight[:, 0, 1, 1], layer.weight[:, 2, 1, 1]
    out = layer(features, neighbours(cells, (4, 4, 4), 3))
    torch.testing.assert_close(out[0], layer.bias + middle @ features[0] + behind @ features[1])
    torch.testing.assert_close(out[1], layer.bias + middle @ features[1] + before @ features[0])
    torch.testing.assert_close(out[2], layer.bias + middle @ features[2] + before @ features[0])


@torch.no_grad()
def test_key_points_are_in_the_axes_of_the_superposed_gaussian() -> None:
    """A fixed point is as many deviations from the mean as it says."""
    space = Space(SMALL.lower, SMALL.upper, (0.1, 2.0))
    torch.manual_seed(0)
    anchors = torch.randn(1, 5, CLASSES + 17)
    anchors[..., ROTATION] = F.normalize(anchors[..., ROTATION], dim=-1)
    part = KeyPoints(8, 2, space)
    nn.init.zeros_(part.learnable_fc.weight)
    nn.init.zeros_(part.learnable_fc.bias)
    points = part(torch.randn(1, 5, 8), anchors)
    conjugate = anchors[0, :, ROTATION] * torch.tensor([1.0, -1.0, -1.0, -1.0])
    axes = own_axes(conjugate, space.scales(anchors)[0])
    local = (axes[:, None] @ (points - space.metres(anchors)[:, :, None])[0, ..., None])[..., 0]
    torch.testing.assert_close(local[:, :7], torch.tensor(FIXED).expand(5, 7, 3), atol=1e-4, rtol=1e-4)
    assert float(local[:, 7:].abs().max()) < 1e-4, "a learned one that says nothing is at the mean"


@torch.no_grad()
def test_attention_is_one_softmax_over_what_is_in_sight(batch: OccupancyBatch) -> None:
    torch.manual_seed(0)
    space = Space(SMALL.lower, SMALL.upper, (0.1, 2.0))
    part = ImageAttention(8, 2, 2, 1, space, dropout=0.0)
    nn.init.normal_(part.weights_fc.weight)
    levels = [torch.randn(2, 6, 8, 8, 13), torch.randn(2, 6, 8, 4, 7)]
    views = views_of(levels, batch.projection, (104, 64), 2)
    anchors, features, codes = torch.randn(2, 30, CLASSES + 17), torch.randn(2, 30, 8), torch.randn(2, 30, 8)
    out = part(features, anchors, codes, views)
    points = part.kps_generator(features, anchors)
    cameras = part.camera_encoder(batch.projection[:, :, :3].flatten(2))
    blind = 0
    for b in range(2):
        for n in range(30):
            logits, samples = [], []
            for v in range(6):
                raw = part.weights_fc(features[b, n] + codes[b, n] + cameras[b, v]).view(2, 8, 2)
                for p, point in enumerate(points[b, n]):
                    u, w, z, _ = (batch.projection[b, v] @ torch.cat([point, torch.ones(1)])).tolist()
                    if z <= 1e-5 or not (0 < u / z < 104 and 0 < w / z < 64):
                        continue
                    at = torch.tensor([[[[u / z / 104 * 2 - 1, w / z / 64 * 2 - 1]]]])
                    for number, level in enumerate(levels):
                        logits.append(raw[number, p])
                        samples.append(F.grid_sample(level[b, v][None], at, align_corners=False).view(2, 4))
            mixed = torch.zeros(8)
            if logits:
                mixed = (torch.stack(logits).softmax(0)[..., None] * torch.stack(samples)).sum(0).flatten()
            blind += not logits
            torch.testing.assert_close(out[b, n], part.output_proj(mixed), rtol=1e-3, atol=1e-4)
    assert blind, "some are seen by no camera"
    part.attn_drop.p = 0.5
    assert torch.equal(part.eval()(features, anchors, codes, views), out)
    assert not torch.allclose(part.train()(features, anchors, codes, views), out)


def test_losses_on_probabilities_are_the_plain_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (1, SMALL.num_classes, 3, 2, 2)
    probabilities = torch.rand(shape, generator=generator, dtype=torch.float64)
    probabilities = probabilities / probabilities.sum(1, keepdim=True) * 0.9  # some of it is noise's
    probabilities[0, 4, 0, 0, 0] = 0.0
    labels = torch.tensor([[4, 0, 0, 2], [255, 2, 0, 4], [0, 0, 1, 255]]).view(1, 3, 2, 2)
    weights = tuple(0.5 + 0.1 * number for number in range(SMALL.num_classes))
    losses = voxel_losses(probabilities, labels, None, OccupancyLoss(SMALL, class_weights=weights))
    rows, known = probabilities[0].flatten(1).T.tolist(), labels.flatten().tolist()
    pairs = [(row, label) for row, label in zip(rows, known, strict=True) if label != 255]
    total = sum(weights[label] for _, label in pairs)
    entropy = sum(-weights[label] * math.log(min(max(row[label], 1e-6), 1 - 1e-6)) for row, label in pairs) / total
    assert float(losses["loss_ce"]) == pytest.approx(10 * entropy, rel=1e-6)
    occupied = [(row, label) for row, label in pairs if label != SMALL.empty]
    terms = []
    for own in sorted({label for _, label in occupied}):
        errors = sorted(((1 - row[own] if label == own else row[own], label == own) for row, label in occupied), reverse=True)
        count, union, right, before, term = sum(hit for _, hit in errors), 0, 0, 0.0, 0.0
        for error, hit in errors:
            right, union = right + hit, union + (not hit)
            jaccard = 1 - (count - right) / (count + union)
            term, before = term + error * (jaccard - before), jaccard
        terms.append(term)
    assert float(losses["loss_lovasz"]) == pytest.approx(sum(terms) / len(terms), rel=1e-6)
    sight = torch.zeros_like(labels, dtype=torch.bool)
    sight[:, 0] = True
    inside = voxel_losses(probabilities, labels.masked_fill(~sight, 255), None, OccupancyLoss(SMALL, class_weights=weights))
    mixed = voxel_losses(probabilities, labels, sight, OccupancyLoss(SMALL, class_weights=weights, in_sight=0.7))
    torch.testing.assert_close(mixed["loss_ce"], 0.7 * inside["loss_ce"] + 0.3 * losses["loss_ce"])
    torch.testing.assert_close(mixed["loss_lovasz"], inside["loss_lovasz"])
    nothing = voxel_losses(probabilities, torch.full_like(labels, 255), None, OccupancyLoss(SMALL, class_weights=weights))
    assert all(float(value) == 0 for value in nothing.values())


# Behaviour ---------------------------------------------------------------------------------------------------------


def test_prediction(toy: GaussianFormer2, batch: OccupancyBatch) -> None:
    prediction = toy.predict(batch)
    assert prediction.features is not None
    assert prediction.logits[-1].shape == prediction.features.shape == (2, 17, *SMALL.shape)
    assert (prediction.features >= 0).all() and float(prediction.features.sum(1).max()) <= 1 + 1e-5
    torch.testing.assert_close(prediction.logits[-1], prediction.features.clamp(1e-6, 1 - 1e-6).log())
    assert not (prediction.features.sum(1) > 1 - 1e-6).all(), "the noise's class has some of it"


@pytest.mark.parametrize(
    ("grid", "noise"),
    [(SMALL, True), (replace(occ3d_grid(), lower=(-16.0, -16.0, -3.0), upper=(16.0, 16.0, 5.0), voxel_size=2.0), False)],
)
def test_classes_are_the_grids(grid: OccupancyGrid, noise: bool) -> None:
    """One large Gaussian of each class, and what is empty where the data set has it."""
    head = build("toy", grid, noise_class=noise, **FEW).head
    occupied = [number for number in range(grid.num_classes) if number != grid.empty]
    assert head.classes == len(occupied) + noise
    for place, number in enumerate(occupied, start=int(noise)):
        anchors = torch.zeros(1, 1, CLASSES + head.classes)
        anchors[..., ROTATION.start] = 1
        anchors[..., SCALE], anchors[..., OPACITY], anchors[..., CLASSES + place] = 3.0, 1.0, 20.0
        answer = head(anchors)[0].argmax(dim=0)
        assert answer[8, 8, 1] == number and answer[0, 0, 0] == grid.empty


def test_a_batch_is_its_samples(toy: GaussianFormer2, batch: OccupancyBatch) -> None:
    both = toy.predict(batch).logits[-1]
    for index in range(2):
        torch.testing.assert_close(toy.predict(batch.one(index)).logits[-1][0], both[index], rtol=1e-3, atol=1e-3)
    few = surround_batch(SMALL, cameras=3, **IMAGE)
    assert toy.predict(few).logits[-1].shape == (1, 17, *SMALL.shape)


def test_predictions_depend_on_images_and_cameras(toy: GaussianFormer2, batch: OccupancyBatch) -> None:
    plain = toy.predict(batch).logits[-1]
    for other in (replace(batch, images=batch.images.flip(0)), replace(batch, projection=batch.projection.flip(0))):
        assert not torch.allclose(toy.predict(other).logits[-1], plain)


def test_images_reach_the_networks_in_imagenets_normalisation(batch: OccupancyBatch) -> None:
    model = small(imagenet_images=True).eval()
    seen: list[Tensor] = []
    for network in (model.img_backbone, model.lifter.initialize_backbone):
        network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model.predict(batch)
    right = imagenet_rgb(batch.images).flatten(0, 1)
    assert len(seen) == 2 and all(torch.equal(images, right) for images in seen)
    torch.testing.assert_close(right[3, 0], batch.images.flatten(0, 1)[3, 2] / 58.395)


def test_half_of_the_frames_are_trained_with_mirrored_images() -> None:
    model, batch = small(), surround_batch(SMALL, batch=8, cameras=2, width=26, height=16)
    mirrored = half_mirrored(model, batch)
    flipped = [not torch.equal(a, b) for a, b in zip(mirrored.images, batch.images, strict=True)]
    assert 0 < sum(flipped) < 8
    point = torch.tensor([5.0, 0.5, 1.0, 1.0])
    for index, flip in enumerate(flipped):
        assert torch.equal(mirrored.images[index], batch.images[index].flip(-1) if flip else batch.images[index])
        u, v, z, _ = batch.projection[index, 0] @ point
        again = mirrored.projection[index, 0] @ point
        torch.testing.assert_close(again[0] / again[2], 26 - u / z if flip else u / z)
        torch.testing.assert_close(again[1:3], torch.stack([v, z]))
    model.set_progress(1, 0)
    other = half_mirrored(model, batch)
    assert not torch.equal(other.images, mirrored.images)
    with_mirror = small(mirrored_images=True).train()
    seen: list[Tensor] = []
    with_mirror.img_backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    large = surround_batch(SMALL, batch=4, cameras=1, **IMAGE)
    with_mirror.loss(large)
    assert torch.equal(seen[0], half_mirrored(with_mirror, large).images.flatten(0, 1))
    with_mirror.eval().predict(large)
    assert torch.equal(seen[1], large.images.flatten(0, 1))


def test_training_reaches_every_parameter_and_lowers_the_loss(batch: OccupancyBatch) -> None:
    model = small(gaussrender=RENDERING).train()
    losses = model.loss(batch)
    assert {"loss_ce", "loss_lovasz", "loss_render_image"} <= set(losses)
    torch.stack(list(losses.values())).sum().backward()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    unreached = [name for name, p in parameters.items() if p.grad is None or not p.grad.any()]
    assert unreached == ["encoder.layers.1.kps_generator.learnable_fc.weight"], "all begin with features of zeros"
    model = small().train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    values = []
    for _ in range(4):
        optimizer.zero_grad()
        total = torch.stack(list(model.loss(batch).values())).sum()
        total.backward()
        optimizer.step()
        values.append(total.item())
    assert values[-1] < values[0]


def test_the_first_stage_learns_where_something_is(batch: OccupancyBatch) -> None:
    model = small_init().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    values = []
    for step in range(4):
        optimizer.zero_grad()
        (total,) = model.loss(batch).values()
        total.backward()
        if not step:
            assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        optimizer.step()
        values.append(total.item())
    assert values[-1] < values[0]
    logits, points = model.eval().rays(batch)
    labels = model.predict(batch).labels
    assert set(labels.unique().tolist()) <= {SMALL.empty, 1}
    voxels = ((points - points.new_tensor(SMALL.lower)) / SMALL.voxel_size).floor().long().flatten(1, 4)
    for own, where in zip(labels, voxels, strict=True):
        reached = {tuple(v) for v in where.tolist()}
        assert all(tuple(v) in reached for v in (own != SMALL.empty).nonzero().tolist())


def test_same_seed_same_bits(batch: OccupancyBatch) -> None:
    def run(iteration: int) -> list[Tensor]:
        model = small(dropout=0.1, attention_dropout=0.15).train()
        model.set_progress(iteration, 0)
        torch.manual_seed(1)
        losses = model.loss(batch)
        torch.stack(list(losses.values())).sum().backward()
        return [*losses.values(), *(p.grad for p in model.parameters() if p.grad is not None)]

    one, same, other = run(3), run(3), run(4)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0]), "other points are drawn in another iteration"
    model = small().eval()
    first = model.predict(batch).logits[-1]
    model.set_progress(7, 1)
    assert torch.equal(model.predict(batch).logits[-1], first), "an answer does not depend on the iteration"


def test_a_training_starts_from_the_classes_shares(batch: OccupancyBatch) -> None:
    model = small()
    shares = torch.full((17,), 0.01)
    shares[0], shares[5] = 0.9, 0.05
    model.start_from_bias(shares.log().tolist())
    for refinement in model.encoder.refinements():
        nn.init.zeros_(refinement.last.weight)
    answer = model.eval().predict(batch).features
    assert answer is not None
    assert 0.02 < float(1 - answer[:, 0].mean()) < 0.2, "a tenth of the voxels is occupied"
    there = answer[0, 6] > 1e-6
    torch.testing.assert_close((answer[0, 5] / answer[0, 6])[there], torch.full((int(there.sum()),), 5.0), rtol=1e-2, atol=1e-2)
    with pytest.raises(ValueError, match="a bias for each of the 17 classes is needed, got 3"):
        model.start_from_bias([0.0] * 3)


def test_wrong_options_and_batches_are_named(toy: GaussianFormer2, batch: OccupancyBatch) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"groups": 5}, "out_channels 48 must be a multiple of the number of groups 5"),
        ({"pixel_anchors": 0}, "pixel_anchors, learned_anchors and layers must be at least 1"),
        ({"scale_range": (2.0, 1.0)}, "scale_range must be two positive metres, the smaller first"),
        ({"multiplier": 0.0}, "multiplier positive"),
        ({"kernel": 4}, "kernel must be an odd number of cells, got 4"),
        ({"cell": 3.0}, "cell must be metres that divide the grid's range"),
        ({"bins": 1}, "bins must be at least 2"),
        ({"depth_range": (5.0, 1.0)}, "the nearer first"),
    ]
    for options, message in wrong:
        with pytest.raises(ValueError, match=message):
            check_options(gaussianformer2_config("toy", SMALL) | options)
        with pytest.raises(ValueError, match=message):
            small(**options)
    with pytest.raises(ValueError, match="bins must be at least 2"):
        build_init("toy", SMALL, bins=0)
    for build_one in (gaussianformer2_config, gaussianformer2_init_config):
        with pytest.raises(ValueError, match=r"unknown GaussianFormer-2.* size 'huge' \(known: toy, paper\)"):
            build_one("huge", SMALL)  # type: ignore[arg-type]
    for model in (toy, small_init()):
        with pytest.raises(ValueError, match=r"projection must be \[2, 6, 4, 4\], got"):
            model.predict(replace(batch, projection=batch.projection[:, :5]))


def test_deformable_attention_is_told_apart_by_camera() -> None:
    """Maps of all cameras are levels of the operator, one camera after the other."""
    levels = [torch.full((1, 2, 4, 2, 3), 0.0), torch.full((1, 2, 4, 1, 2), 0.0)]
    for camera in range(2):
        for number, level in enumerate(levels):
            level[:, camera] = 10 * camera + number
    views = views_of(levels, torch.eye(4).expand(1, 2, 4, 4), (30, 20), 2)
    assert views.shapes == ((2, 3), (1, 2), (2, 3), (1, 2))
    locations = torch.full((1, 1, 2, 4, 1, 2), 0.5)
    for index, value in enumerate((0.0, 1.0, 10.0, 11.0)):
        weights = torch.zeros(1, 1, 2, 4, 1)
        weights[:, :, :, index] = 1
        torch.testing.assert_close(
            deformable_attention(views.value, views.shapes, locations, weights), torch.full((1, 1, 4), value)
        )
