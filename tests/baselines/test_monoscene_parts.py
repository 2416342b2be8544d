"""MonoScene's parts against their definitions: lines of sight, labels of cells, relations, context, blocks."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from kitti_rig import KITTI360, SIZE, intrinsics, kitti_batch, velodyne_to_camera
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.monoscene.image_network import ImageDecoder
from baselines.monoscene.losses import cell_labels, relation_loss, relations
from baselines.monoscene.projection import lines_of_sight
from baselines.monoscene.volume import Bottleneck, ContextPrior

EMPTY, UNKNOWN = 0, 255

# Lines of sight ----------------------------------------------------------------------------------------------------


def test_voxels_take_the_features_of_their_pixels_and_nothing_out_of_the_image() -> None:
    """Voxel by voxel, with the data set's own constants."""
    grid, (width, height), scales = KITTI360.coarsened(16), (90, 47), (1, 2, 4, 8)
    g = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 3, -(-height // s), -(-width // s), generator=g) for s in scales]
    batch = kitti_batch(grid, batch=2, width=width, height=height)
    found = lines_of_sight(maps, scales, grid, batch.projection[:, 0], (width, height))
    assert found.shape == (2, 3, *grid.shape)
    seen = 0
    for sample in range(2):
        pose, matrix = batch.reference_to_camera[sample, 0].double().numpy(), intrinsics(width, height).double().numpy()
        for index in np.ndindex(*grid.shape):
            centre = np.array(grid.lower) + (np.array(index) + 0.5) * grid.voxel_size
            x, y, z = pose[:3, :3] @ centre + pose[:3, 3]
            u, v = round(x * matrix[0, 0] / z + matrix[0, 2]), round(y * matrix[1, 1] / z + matrix[1, 2])  # half to even
            expected = torch.zeros(3)
            if z > 0 and 0 <= u < width and 0 <= v < height:
                seen += 1
                expected = sum((level[sample, :, v // s, u // s] for level, s in zip(maps, scales, strict=True)), expected)
            torch.testing.assert_close(found[(sample, slice(None), *index)], expected, msg=f"{sample} {index}")
    assert 50 < seen < found[:, 0].numel() - 50


def test_published_cells_look_at_published_pixels() -> None:
    """The half-resolution grid and the whole image: a few cells by hand, the last row of a map that is a row short."""
    scene = KITTI360.coarsened(2)
    assert scene.shape == (128, 128, 16)
    matrix = torch.eye(4)
    matrix[:3, :3] = intrinsics(*SIZE)
    projection = (matrix @ velodyne_to_camera())[None]
    rows = torch.arange(376.0)[:, None].expand(376, 1408)
    at_eighths = torch.arange(47.0)[:, None].expand(47, 176)
    full, eighth = (
        lines_of_sight([level[None, None]], [scale], scene, projection, SIZE)[0, 0]
        for level, scale in ((rows, 1), (at_eighths, 8))
    )
    assert torch.equal(eighth, torch.div(full, 8, rounding_mode="floor"))
    ahead = full[60, 64]  # 24 m ahead, from 2 m below to 4.4 m above the lidar: from the bottom of the image to its top
    assert (ahead[:-1] > ahead[1:]).all() and 0 < ahead[-1] < ahead[0] < 376
    assert (full[:1] == 0).all(), "what is beside the camera is not seen"


def test_gradients_of_a_pixel_are_those_of_all_voxels_that_see_it() -> None:
    grid = KITTI360.coarsened(16)
    level = torch.randn(1, 2, 12, 44, requires_grad=True)
    batch = kitti_batch(grid, width=88, height=24)
    weights = torch.randn(1, 2, *grid.shape, generator=torch.Generator().manual_seed(1))
    (lines_of_sight([level], [2], grid, batch.projection[:, 0], (88, 24)) * weights).sum().backward()
    numbers = torch.arange(1.0, 12 * 44 + 1).view(1, 1, 12, 44)
    seen = lines_of_sight([numbers], [2], grid, batch.projection[:, 0], (88, 24)).long().flatten()
    expected = torch.zeros(2, 12 * 44 + 1).index_add(1, seen, weights[0].flatten(1))[:, 1:]
    assert level.grad is not None
    torch.testing.assert_close(level.grad[0].flatten(1), expected)


# Labels and relations of cells -------------------------------------------------------------------------------------


def drawn_labels(occupied: float, unknown: float, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(1, 4, shape, generator=g)
    draw = torch.rand(shape, generator=g)
    labels[draw > occupied] = EMPTY
    labels[draw > 1 - unknown] = UNKNOWN
    return labels


@pytest.mark.parametrize(("factor", "occupied", "unknown"), [(4, 0.04, 0.0), (4, 0.05, 0.5), (8, 0.05, 0.47), (2, 0.3, 0.3)])
def test_labels_of_cells_are_counted(factor: int, occupied: float, unknown: float) -> None:
    labels = drawn_labels(occupied, unknown, (2, 16, 8, 8))
    found = cell_labels(labels, factor, 5, EMPTY, UNKNOWN)
    assert found.shape == (2, 16 // factor, 8 // factor, 8 // factor)
    kinds = set()
    for index in np.ndindex(*found.shape):
        sample, *corner = index
        block = labels[(sample, *(slice(i * factor, (i + 1) * factor) for i in corner))]
        counts = Counter(block.flatten().tolist())
        if counts[EMPTY] + counts[UNKNOWN] > 0.95 * factor**3:
            expected = EMPTY if counts[EMPTY] > counts[UNKNOWN] else UNKNOWN
        else:
            expected = min((label for label in counts if label not in (EMPTY, UNKNOWN)), key=lambda c: (-counts[c], c))
        kinds.add(expected)
        assert found[index] == expected
    assert len(kinds) > 1


def test_another_empty_class_may_be_empty() -> None:
    labels = drawn_labels(0.3, 0.2, (1, 8, 8, 8))
    turned = torch.where(labels == UNKNOWN, labels, 4 - labels)  # classes 1 to 3 and empty 0 -> classes 3 to 1 and empty 4
    found = cell_labels(turned, 2, 5, 4, UNKNOWN)
    assert torch.equal(found == 4, cell_labels(labels, 2, 5, EMPTY, UNKNOWN) == EMPTY)
    cells = drawn_labels(0.4, 0.2, (1, 4, 4, 2))
    other = torch.where(cells == UNKNOWN, cells, 4 - cells)
    assert torch.equal(relations(other, 5, 4, UNKNOWN), relations(cells, 5, EMPTY, UNKNOWN))


def test_relations_are_those_of_all_pairs() -> None:
    cells = drawn_labels(0.4, 0.3, (2, 4, 6, 2))
    cells[0, :2, :2] = UNKNOWN  # a block of which nothing is known
    cells[1, :2, :2] = EMPTY
    found = relations(cells, 4, EMPTY, UNKNOWN)
    assert found.shape == (2, 4, 48, 6) and found.dtype == torch.bool
    expected = torch.zeros_like(found)
    for sample in range(2):
        for row, own in enumerate(cells[sample].flatten().tolist()):
            for x, y, z in np.ndindex(4, 6, 2):
                other, block = int(cells[sample, x, y, z]), (x // 2) * 3 + y // 2
                if UNKNOWN in (own, other):
                    continue
                if own == other:
                    kind = 2 if own == EMPTY else 0
                else:
                    kind = 3 if EMPTY in (own, other) else 1
                expected[sample, kind, row, block] = True
    assert torch.equal(found, expected)
    assert not found[0, :, :, 0].any() and found[1, 2, 0, 0]


def test_the_relation_loss_is_its_definition() -> None:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 4, generator=g)
    truth = torch.rand(2, 3, 6, 4, generator=g) < torch.tensor([0.1, 0.5, 0.0])[:, None, None]  # nothing has the last one
    counted = torch.rand(2, 6, generator=g) < 0.7
    for chosen in (None, counted):
        terms = []
        for relation in range(3):
            pairs = [
                (float(logits[b, relation, n, m]), bool(truth[b, relation, n, m]))
                for b, n, m in np.ndindex(2, 6, 4)
                if chosen is None or chosen[b, n]
            ]
            yes = sum(has for _, has in pairs)
            weight = (len(pairs) - yes) / yes if yes else math.nan
            terms += [weight * math.log1p(math.exp(-x)) if has else math.log1p(math.exp(x)) for x, has in pairs]
        assert relation_loss(logits, truth, chosen).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    nothing = relation_loss(logits.requires_grad_(), truth, torch.zeros_like(counted))
    nothing.backward()
    assert nothing == 0 and logits.grad is not None and not logits.grad.any()
    with pytest.raises(ValueError, match=r"relations must be \[2, 3, 6, 4\], got \[2, 3, 6, 3\]"):
        relation_loss(logits[..., :3], truth)


# Networks ----------------------------------------------------------------------------------------------------------


def test_context_is_gathered_by_relation() -> None:
    """Cells that have a relation to one block alone get its context, in the places of that relation."""
    torch.manual_seed(0)
    module = ContextPrior(8, (4, 4, 2)).eval()
    volume = torch.randn(1, 8, 4, 4, 2)
    assert [layer.out_channels for layer in module.context_prior_logits] == [4] * 4
    for number, layer in enumerate(module.context_prior_logits):
        nn.init.zeros_(layer.weight)
        nn.init.constant_(layer.bias, -200.0)
        layer.bias.data[number] = 200.0  # relation r: all cells to block r
    seen: list[Tensor] = []
    hook = module.resize.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    out, logits = module(volume)
    hook.remove()
    assert out.shape == volume.shape and logits.shape == (1, 4, 32, 4)
    assert all((logits[0, r] > 0)[:, r].all() and (logits[0, r] > 0).sum() == 32 for r in range(4))
    context = F.conv3d(module.aspp(volume), module.mega_context.weight, module.mega_context.bias, stride=2, padding=1)
    torch.testing.assert_close(seen[0][:, :8], volume)
    for relation, block in enumerate(np.ndindex(2, 2, 1)):
        expected = context[(0, slice(None), *block)][:, None, None, None].expand(-1, 4, 4, 2)
        torch.testing.assert_close(seen[0][0, 8 + 16 * relation : 24 + 16 * relation], expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_bottleneck_adds_up_its_three_directions(stride: int) -> None:
    torch.manual_seed(0)
    shrunk = nn.AvgPool3d(2, 2) if stride == 2 else None
    block = Bottleneck(8, 4, stride=stride, dilation=1 if stride == 2 else 2, expansion=2, downsample=shrunk).eval()
    x = torch.randn(2, 8, 6, 8, 4)
    d = 1 if stride == 2 else 2
    norm = math.sqrt(1 + 1e-5)  # batch norm as it starts
    conv = [getattr(block, f"conv{i}").weight for i in range(1, 6)]
    one = F.relu(F.conv3d(x, conv[0]) / norm)
    two = F.conv3d(one, conv[1], stride=(1, 1, stride), padding=(0, 0, d), dilation=(1, 1, d)) / norm
    three = F.conv3d(F.relu(two), conv[2], stride=(1, stride, 1), padding=(0, d, 0), dilation=(1, d, 1)) / norm

    def smaller(volume: Tensor, name: str, window: tuple[int, int, int]) -> Tensor:
        return F.conv3d(F.avg_pool3d(volume, window), getattr(block, name)[1].weight) / norm if stride == 2 else volume

    two = smaller(two, "downsample2", (1, 2, 1))
    three = two + three
    four = F.conv3d(F.relu(three), conv[3], stride=(stride, 1, 1), padding=(d, 0, 0), dilation=(d, 1, 1)) / norm
    four = four + smaller(two, "downsample3", (2, 1, 1)) + smaller(three, "downsample4", (2, 1, 1))
    last = F.conv3d(F.relu(four), conv[4]) / norm
    expected = F.relu((x if shrunk is None else shrunk(x)) + last)
    torch.testing.assert_close(block(x), expected)


def test_the_published_bottleneck_has_a_border_of_its_bias() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(1, c, s, 2 * s) for c, s in ((3, 32), (4, 16), (4, 8), (4, 4), (4, 2), (8, 1))]
    seen: list[Tensor] = []
    for padded in (True, False):
        decoder = ImageDecoder((4, 4, 4, 4, 8), 32, 4, (1, 2, 4, 8), padded)
        decoder.upsamples[4].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        assert [tuple(level.shape) for level in decoder(maps)] == [(1, 4, s, 2 * s) for s in (32, 16, 8, 4)]
        border, inner = seen[-1].clone(), F.conv2d(maps[-1], decoder.conv.weight, decoder.conv.bias)
        if padded:
            assert border.shape == (1, 32, 3, 4)
            torch.testing.assert_close(border[..., 1:-1, 1:-1], inner)
            border[..., 1:-1, 1:-1] = decoder.conv.bias[:, None, None]
            assert torch.equal(border, decoder.conv.bias[:, None, None].expand_as(border))
        else:
            torch.testing.assert_close(border, inner)
