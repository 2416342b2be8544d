"""Symphonies' parts against their definitions: losses, geometry, attention, position codes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kitti_rig import KITTI360, intrinsics, kitti_batch, velodyne_to_camera
from mmcv.ops import MultiScaleDeformableAttention
from torch import nn

from baselines.symphonies.attention import DeformableAttention, FoldedAttention, MapAttentionLayer
from baselines.symphonies.decoder import ScenePosition
from baselines.symphonies.geometry import cells_of_pixels, frustums, project, scene_views
from baselines.symphonies.losses import voxel_losses

GRID = KITTI360.coarsened(8)  # 32 x 32 x 4

# Losses ------------------------------------------------------------------------------------------------------------


def by_definition(logits: np.ndarray, labels: np.ndarray, parts: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Float64, one class and one frustum after the other; logits [B, C, ...], empty class 0, unknown 255."""
    classes = logits.shape[1]
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = np.moveaxis(e / e.sum(axis=1, keepdims=True), 1, -1).reshape(-1, classes)
    known = labels.reshape(-1) != 255
    p, t, f = p[known], labels.reshape(-1)[known], parts.reshape(-1)[known]
    own = p[np.arange(len(t)), t]
    out = {"ce": -(weights[t] * np.log(own)).sum() / weights[t].sum()}

    def scores(chance: np.ndarray, truth: np.ndarray) -> float:
        hit = (chance * truth).sum()
        total = -math.log(hit / chance.sum()) - math.log(hit / truth.sum())
        return total - math.log(((1 - chance) * (1 - truth)).sum() / (1 - truth).sum())

    present = sorted(set(t.tolist()))
    out["sem_scal"] = float(np.mean([scores(p[:, c], (t == c).astype(float)) for c in present]))
    out["geo_scal"] = scores(1 - p[:, 0], (t != 0).astype(float))
    divergences = []
    for part in sorted(set(f.tolist()) - {-1}):
        inside = f == part
        share = np.bincount(t[inside], minlength=classes) / inside.sum()
        predicted = p[inside].sum(axis=0) / p[inside].sum()
        divergences.append(sum(s * math.log(s / q) for s, q in zip(share, predicted, strict=True) if s > 0))
    out["frustum"] = float(np.mean(divergences))
    return out


def test_losses_are_their_definitions() -> None:
    g = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, 6, 8, 7, 3, generator=g)
    labels = torch.randint(0, 5, (2, 8, 7, 3), generator=g)  # class 5 is absent
    labels[torch.rand(labels.shape, generator=g) < 0.2] = 255
    parts = torch.randint(-1, 5, labels.shape, generator=g)
    parts[parts == 3] = -1  # a part without voxels
    weights = torch.rand(6, generator=g) + 0.1
    found = voxel_losses(logits, labels, parts, 5, weights, empty=0, ignore=255)
    expected = by_definition(logits.double().numpy(), labels.numpy(), parts.numpy(), weights.double().numpy())
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-5), name


def test_losses_are_small_for_the_truth_and_finite_for_certain_errors() -> None:
    g = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 4, (1, 6, 6, 2), generator=g)
    parts = torch.randint(-1, 4, labels.shape, generator=g)
    truth = 50.0 * F.one_hot(labels, 4).movedim(-1, 1).float()
    for value in voxel_losses(truth, labels, parts, 4, torch.ones(4), 0, 255).values():
        assert 0 <= value.item() < 1e-4
    wrong = (400.0 * F.one_hot((labels + 1) % 4, 4).movedim(-1, 1).float()).requires_grad_()
    losses = torch.stack(list(voxel_losses(wrong, labels, parts, 4, torch.ones(4), 0, 255).values()))
    losses.sum().backward()
    assert torch.isfinite(losses).all() and wrong.grad is not None and torch.isfinite(wrong.grad).all()


@pytest.mark.parametrize("label", [0, 3, 255])
def test_losses_of_labels_of_one_kind(label: int) -> None:
    """All empty, all of a class, all unknown: finite, and zero where nothing is known."""
    logits = torch.randn(1, 4, 5, 5, 2, generator=torch.Generator().manual_seed(2)).requires_grad_()
    labels = torch.full((1, 5, 5, 2), label)
    losses = torch.stack(list(voxel_losses(logits, labels, torch.zeros_like(labels), 4, torch.ones(4), 0, 255).values()))
    losses.sum().backward()
    assert torch.isfinite(losses).all() and logits.grad is not None and torch.isfinite(logits.grad).all()
    assert (losses == 0).all() == (label == 255)


def test_wrong_shapes_are_named() -> None:
    labels = torch.zeros(1, 4, 4, 2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"logits must be \[1, C, 4, 4, 2\], got \[1, 3, 4, 4, 1\]"):
        voxel_losses(torch.zeros(1, 3, 4, 4, 1), labels, labels, 4, torch.ones(3), 0, 255)
    with pytest.raises(ValueError, match=r"frustums must be \[1, 4, 4, 2\]"):
        voxel_losses(torch.zeros(1, 3, 4, 4, 2), labels, labels[0], 4, torch.ones(3), 0, 255)


# Geometry ----------------------------------------------------------------------------------------------------------

SIZE = (176, 48)


def camera() -> tuple[np.ndarray, np.ndarray]:
    return intrinsics(*SIZE).double().numpy(), velodyne_to_camera().double().numpy()


def test_voxels_fall_on_pixels_as_published() -> None:
    """Rounded pixels, parts of the image and the field of view, one voxel after the other."""
    k, pose = camera()
    batch = kitti_batch(GRID, width=SIZE[0], height=SIZE[1])
    pixels, depth = project(GRID.centres().flatten(0, 2), batch.projection[:, 0])
    parts = frustums(GRID, batch.projection[:, 0], SIZE, size=8)[0]
    compared = 0
    for number, (i, j, h) in enumerate(np.ndindex(*GRID.shape)):
        centre = np.array(GRID.lower) + (np.array([i, j, h]) + 0.5) * GRID.voxel_size
        x, y, z = pose[:3, :3] @ centre + pose[:3, 3]
        assert depth[0, number].item() == pytest.approx(z, abs=1e-4)
        if abs(z) < 0.05:
            continue
        u, v = k[0, 0] * x / z + k[0, 2], k[1, 1] * y / z + k[1, 2]
        if min(abs(u % 1 - 0.5), abs(v % 1 - 0.5)) < 1e-3:
            continue  # either way in float32
        u, v = round(u), round(v)
        if max(abs(u), abs(v)) < 1e5:
            assert pixels[0, number].tolist() == [u, v]
        expected = -1
        if z > 0 and 0 <= u < SIZE[0] and 0 <= v < SIZE[1]:
            column = next(c for c in range(8) if c / 8 * SIZE[0] <= u < (c + 1) / 8 * SIZE[0])
            row = next(r for r in range(8) if r / 8 * SIZE[1] <= v < (r + 1) / 8 * SIZE[1])
            expected, compared = row * 8 + column, compared + 1
        assert parts[i, j, h].item() == expected
    assert compared > 500


def test_pixels_point_into_cells_as_published() -> None:
    """Cells (x, y, z / 2) behind pixels, cut towards zero; those in the scene are proposed, unknown depth is not."""
    k, pose = camera()
    rays, back = np.linalg.inv(k), np.linalg.inv(pose)
    batch = kitti_batch(GRID, width=SIZE[0], height=SIZE[1])
    assert batch.depth is not None
    depth = batch.depth[:, 0].clone()
    depth[:, :, ::3] = 0
    views = scene_views(GRID, 2, batch.projection[:, 0], depth, SIZE)
    hit, compared = set(), 0
    cells = views.cells[0].numpy()
    for row, column in np.ndindex(SIZE[1], SIZE[0]):
        d = depth[0, row, column].item()
        point = back[:3] @ np.append(rays @ (np.array([column, row, 1]) * d), 1)
        exact = (point - np.array(GRID.lower)) / GRID.voxel_size - 0.5
        exact[2] /= 2
        cell = np.trunc(exact).astype(int)
        if d > 0 and (cell >= 0).all() and (cell < (32, 32, 2)).all():
            hit.add((cell[0] * 32 + cell[1]) * 2 + cell[2])
        if np.abs(exact - np.round(exact)).min() > 1e-3:
            compared += 1
            assert cells[row, column].tolist() == cell.tolist()
    assert compared > 8000
    found = set(views.proposed[0].tolist())
    assert len(found ^ hit) <= 2 and len(found) > 100  # float32 may cut the other way at a border


def test_a_cell_is_seen_if_a_part_is_and_lies_between_their_pixels() -> None:
    batch = kitti_batch(GRID, width=SIZE[0], height=SIZE[1])
    projection, depth = batch.projection[:, 0], torch.ones(1, SIZE[1], SIZE[0])
    fine, coarse = (scene_views(GRID, factor, projection, depth, SIZE) for factor in (1, 2))
    seen = torch.zeros(32 * 32 * 4, dtype=torch.bool)
    seen[fine.seen[0]] = True
    assert coarse.seen[0].tolist() == seen.view(-1, 2).any(dim=1).nonzero()[:, 0].tolist()
    size = torch.tensor(SIZE, dtype=torch.float32)
    number = int(coarse.seen[0][len(coarse.seen[0]) // 2])
    pair = (fine.pixels[0] * size - 0.5).round()[2 * number : 2 * number + 2]
    torch.testing.assert_close(coarse.pixels[0, number], (pair.mean(dim=0).trunc() + 0.5) / size)


def test_depth_of_a_voxel_leads_back_to_it() -> None:
    """Real calibration: a voxel in the image, its pixel at its depth, and back into the same cell or its neighbour."""
    batch = kitti_batch(GRID, width=1408, height=376)
    centre = GRID.centres()[20, 14, 1]
    pixels, depth = project(centre[None], batch.projection[:, 0])
    column, row = (int(v) for v in pixels[0, 0])
    image = torch.zeros(1, 376, 1408)
    image[0, row, column] = depth[0, 0]
    cell = cells_of_pixels(GRID, 1, batch.projection[:, 0], image)[0, row, column]
    assert (cell - torch.tensor([20, 14, 1])).abs().max() <= 1


# Attention ---------------------------------------------------------------------------------------------------------


def test_attention_is_mmcvs() -> None:
    torch.manual_seed(0)
    theirs = MultiScaleDeformableAttention(16, 4, 3, 4, dropout=0.0, batch_first=True)
    ours = DeformableAttention(16, 4, 3, 4, dropout=0.0, batch_first=True)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours.load_state_dict(theirs.state_dict())
    shapes = [(6, 8), (3, 4), (2, 2)]
    query, position, value = torch.randn(2, 5, 16), torch.randn(2, 5, 16), torch.randn(2, 64, 16)
    points = torch.rand(2, 5, 3, 2)
    expected = theirs(
        query,
        value=value,
        query_pos=position,
        reference_points=points,
        spatial_shapes=torch.tensor(shapes),
        level_start_index=torch.tensor([0, 48, 60]),
    )
    torch.testing.assert_close(ours(query, value, points, shapes, position), expected, rtol=1e-4, atol=1e-5)


def test_a_layer_adds_the_normalised_query_as_well() -> None:
    """With an attention that answers zero: q + norm(q), then the feed-forward."""
    torch.manual_seed(0)
    layer = MapAttentionLayer(8, 2, 1, 1, dropout=0.0)
    nn.init.zeros_(layer.attn.output_proj.weight)
    query = torch.randn(1, 3, 8)
    between = query + F.layer_norm(query, (8,))
    expected = between + layer.ffn(layer.norm2(between))
    torch.testing.assert_close(layer(query, torch.randn(1, 4, 8), [(2, 2)], torch.rand(1, 3, 2)), expected)


@pytest.mark.parametrize("published", [True, False])
def test_a_volume_is_folded_along_x(published: bool) -> None:
    """Row x * Z + z, column y; a reference point moves by its height over Z (published) or X."""
    x, y, z = 6, 5, 4
    torch.manual_seed(0)
    module = FoldedAttention(8, 1, 1, dropout=0.0, published_fold=published)
    inner = module.attns[0]
    nn.init.zeros_(inner.sampling_offsets.bias)
    nn.init.eye_(inner.value_proj.weight)
    nn.init.eye_(inner.output_proj.weight)
    volume = torch.randn(1, x, y, z, 8)
    folded = torch.empty(8, x * z, y)
    for i, j, h in np.ndindex(x, y, z):
        folded[:, i * z + h, j] = volume[0, i, j, h]
    reference = torch.rand(1, 7, 3)
    row = reference[..., 0] + (reference[..., 2] - 0.5) / (z if published else x)
    at = torch.stack([reference[..., 1], row], dim=-1)[:, None] * 2 - 1
    expected = F.grid_sample(folded[None], at, align_corners=False)[0, :, 0].t()
    torch.testing.assert_close(module(torch.zeros(1, 7, 8), volume, reference)[0], expected, rtol=1e-4, atol=1e-5)


def test_position_codes_are_folded_as_published() -> None:
    """z = 4 z' + 2 a + b for the part (a, b) of a cell of the table (2 X) x (2 Y) x (Z / 4)."""
    module = ScenePosition((3, 4, 8), 4, (2, 2, 1))
    assert [embed.num_embeddings for embed in module.embeds] == [6, 8, 2]
    code = module().view(3, 4, 8, 4)
    for i, j, h in np.ndindex(3, 4, 8):
        coarse, a, b = h // 4, h % 4 // 2, h % 2
        parts = (module.embeds[0].weight[2 * i + a], module.embeds[1].weight[2 * j + b], module.embeds[2].weight[coarse])
        torch.testing.assert_close(code[i, j, h], module.proj(torch.cat(parts)))
    plain = ScenePosition((3, 4, 2), 4, (1, 1, 1))
    assert [embed.num_embeddings for embed in plain.embeds] == [3, 4, 2]
