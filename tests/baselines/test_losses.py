"""Voxel losses against straightforward formulas."""

from __future__ import annotations

import itertools

import pytest
import torch
from grids import published

from baselines.interface import OccupancyGrid
from baselines.losses import OccupancyLoss, coarse_labels, cross_entropy, jaccard_steps, lovasz_softmax

NAMES = ("empty", "car", "road")
GRID = OccupancyGrid((0, 0, 0), (4, 4, 2), 1.0, NAMES, empty=0, dataset="toy", published=published("toy"))
WEIGHTS = (0.5, 1.0, 2.0)


def make_sample(batch: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, 3, 4, 4, 2, generator=g)
    labels = torch.randint(0, 3, (batch, 4, 4, 2), generator=g)
    labels[torch.rand(labels.shape, generator=g) < 0.2] = 255
    return logits, labels


def plain_lovasz(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    """Sum over the sorted errors of (error step) x (Jaccard loss of the voxels so far), by loops over sets."""
    known = [(p, int(y)) for p, y in zip(probabilities.movedim(1, -1).reshape(-1, 3), labels.flatten(), strict=True) if y != 255]
    losses = []
    for class_id in sorted({y for _, y in known}):
        errors = sorted(((abs(float(y == class_id) - float(p[class_id])), y == class_id) for p, y in known), reverse=True)
        total = sum(own for _, own in errors)
        loss, before = 0.0, 0.0
        for count in range(1, len(errors) + 1):
            wrong = errors[:count]
            missed = sum(own for _, own in wrong)
            jaccard = 1 - (total - missed) / (total + count - missed)
            loss += errors[count - 1][0] * (jaccard - before)
            before = jaccard
        losses.append(loss)
    return sum(losses) / len(losses)


def test_lovasz_against_sets() -> None:
    for seed in range(5):
        logits, labels = make_sample(seed=seed)
        probabilities = logits.softmax(dim=1)
        assert float(lovasz_softmax(probabilities, labels, 255)) == pytest.approx(plain_lovasz(probabilities, labels), rel=1e-5)


def test_lovasz_of_hard_predictions_is_the_jaccard_loss() -> None:
    """With 0/1 probabilities the extension equals one minus IoU, over the classes present."""
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 255]).reshape(1, 8, 1, 1)
    guessed = torch.tensor([0, 0, 1, 1, 1, 0, 2, 2])
    probabilities = torch.nn.functional.one_hot(guessed, 3).float().T.reshape(1, 3, 8, 1, 1)
    empty_iou, car_iou = 2 / 4, 2 / 5
    expected = ((1 - empty_iou) + (1 - car_iou)) / 2
    assert float(lovasz_softmax(probabilities, labels, 255)) == pytest.approx(expected)


def test_jaccard_steps() -> None:
    own = torch.tensor([True, False, True, False])
    # wrong voxels so far: 1 own; + 1 other; + 1 own; + 1 other, of 2 own
    jaccard = [1 / 2, 1 - 1 / 3, 1.0, 1.0]
    expected = [jaccard[0]] + [b - a for a, b in zip(jaccard, jaccard[1:], strict=False)]
    torch.testing.assert_close(jaccard_steps(own), torch.tensor(expected, dtype=torch.float64))


def test_lovasz_gradient_without_the_shortcut() -> None:
    """Leaving out voxels behind the last own one changes neither value nor gradient."""
    logits, labels = make_sample(batch=1)
    logits = logits.double().requires_grad_()
    lovasz_softmax(logits.softmax(1), labels, 255).backward()
    shortcut, logits.grad = logits.grad.clone(), None
    known = labels != 255
    p, y = logits.softmax(1).movedim(1, -1)[known], labels[known]
    terms = []
    for class_id in y.unique().tolist():
        error, order = ((y == class_id).double() - p[:, class_id]).abs().sort(descending=True)
        terms.append(torch.dot(error, jaccard_steps((y == class_id)[order])))
    torch.stack(terms).mean().backward()
    torch.testing.assert_close(shortcut, logits.grad)
    assert shortcut.abs().sum() > 0


def test_cross_entropy_by_hand() -> None:
    logits, labels = make_sample()
    log_p = logits.log_softmax(1).movedim(1, -1)
    total = weight_sum = 0.0
    for p, y in zip(log_p.reshape(-1, 3), labels.flatten().tolist(), strict=True):
        if y != 255:
            total -= WEIGHTS[y] * float(p[y])
            weight_sum += WEIGHTS[y]
    assert float(cross_entropy(logits, labels, torch.tensor(WEIGHTS), 255)) == pytest.approx(total / weight_sum, rel=1e-5)


def test_terms_and_scales() -> None:
    logits, labels = make_sample()
    coarse = torch.randn(2, 3, 2, 2, 1, generator=torch.Generator().manual_seed(1))
    loss = OccupancyLoss(GRID, WEIGHTS)
    one = loss([logits], labels)
    assert list(one) == ["loss_ce", "loss_lovasz"]
    torch.testing.assert_close(one["loss_ce"], 10 * cross_entropy(logits, labels, torch.tensor(WEIGHTS), 255))
    torch.testing.assert_close(one["loss_lovasz"], lovasz_softmax(logits.softmax(1), labels, 255))
    two = loss([coarse, logits], labels)
    assert set(two) == {"loss_ce", "loss_lovasz", "loss_ce_scale1", "loss_lovasz_scale1"}
    assert two["loss_ce"] == one["loss_ce"]
    alone = OccupancyLoss(GRID.coarsened(2), WEIGHTS)([coarse], coarse_labels(labels, 2, GRID))
    torch.testing.assert_close(two["loss_ce_scale1"], alone["loss_ce"] / 2)
    torch.testing.assert_close(two["loss_lovasz_scale1"], alone["loss_lovasz"] / 2)
    assert not loss.state_dict()  # adds nothing to a published state dict


def test_everything_ignored() -> None:
    logits, labels = make_sample()
    logits.requires_grad_()
    total = sum(OccupancyLoss(GRID, WEIGHTS)([logits], torch.full_like(labels, 255)).values())
    total.backward()
    assert float(total.detach()) == 0 and logits.grad.eq(0).all()


def test_voxels_in_sight() -> None:
    logits, labels = make_sample()
    sight = torch.rand(labels.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    published = OccupancyLoss(GRID, WEIGHTS)
    every, seen = published([logits], labels), published([logits], labels.masked_fill(~sight, 255))
    assert published([logits], labels, sight) == every
    assert OccupancyLoss(GRID, WEIGHTS, in_sight=1.0)([logits], labels, sight) == seen
    mixed = OccupancyLoss(GRID, WEIGHTS, in_sight=0.75)([logits], labels, sight)
    assert mixed["loss_lovasz"] == seen["loss_lovasz"] != every["loss_lovasz"]
    torch.testing.assert_close(mixed["loss_ce"], 0.75 * seen["loss_ce"] + 0.25 * every["loss_ce"])
    with pytest.raises(ValueError, match="needs 'sight'"):
        OccupancyLoss(GRID, WEIGHTS, in_sight=0.5)([logits], labels)
    with pytest.raises(ValueError, match="in_sight must be within 0..1"):
        OccupancyLoss(GRID, WEIGHTS, in_sight=1.5)


def test_coarse_labels_as_published_are_the_last_voxel_of_a_block() -> None:
    labels = torch.arange(2 * 4 * 4 * 4).reshape(2, 4, 4, 4) % 7
    expected = torch.zeros(2, 2, 2, 2, dtype=labels.dtype)
    for x, y, z in itertools.product(range(4), repeat=3):  # the published loop: all voxels of a block to one place, in order
        expected[:, x // 2, y // 2, z // 2] = labels[:, x, y, z]
    assert torch.equal(coarse_labels(labels, 2, GRID, "corner"), expected)
    logits = [torch.zeros(2, 3, 2, 2, 2)]
    corner = OccupancyLoss(GRID, WEIGHTS, coarse="corner")(logits, labels % 3)
    assert corner == OccupancyLoss(GRID, WEIGHTS)(logits, expected_of(labels % 3))
    with pytest.raises(ValueError, match="unknown rule 'corners'"):
        coarse_labels(labels, 2, GRID, "corners")  # type: ignore[arg-type]


def expected_of(labels: torch.Tensor) -> torch.Tensor:
    return labels[:, 1::2, 1::2, 1::2]


def test_coarse_labels() -> None:
    block = torch.zeros(1, 4, 4, 2, dtype=torch.long)
    block[0, 0, 0, 0], block[0, 0, 1, 0], block[0, 1, 0, 0] = 2, 2, 1  # most frequent occupied class
    block[0, 2, 0, 0] = 255  # unknown, else empty
    block[0, 0, 2, 0], block[0, 0, 3, 0], block[0, 1, 2, 0] = 1, 2, 255  # tie: the lower id
    assert coarse_labels(block, 2, GRID)[0, :, :, 0].tolist() == [[2, 1], [255, 0]]


def test_published_weights() -> None:
    occ3d, surroundocc, kitti360 = (published(name).class_weights or () for name in ("occ3d", "surroundocc", "kitti360"))
    assert (len(occ3d), len(surroundocc), len(kitti360)) == (18, 17, 19)
    assert occ3d[17] == 0.5 and surroundocc[0] == 0.5
    assert occ3d[1:17] == surroundocc[1:]
    expected = [.0464, .0595, .0865, .0871, .0717, .0657, .0852, .0541, .0602, .0567, .0607, .0540, .0636, .0513, .0564,
                .0701, .0774, .0580, .0690]  # fmt: skip
    assert kitti360 == pytest.approx(expected, abs=6e-5)


def test_half_precision_is_computed_in_float32() -> None:
    logits, labels = make_sample()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = OccupancyLoss(GRID, WEIGHTS)([logits], labels)
    exact = OccupancyLoss(GRID, WEIGHTS)([logits], labels)
    assert all(terms[name] == exact[name] and terms[name].dtype == torch.float32 for name in exact)


def test_errors() -> None:
    logits, labels = make_sample()
    with pytest.raises(ValueError, match="no published class weights"):
        OccupancyLoss(GRID)
    with pytest.raises(ValueError, match="class_weights must be 3 numbers"):
        OccupancyLoss(GRID, (1.0, 2.0))
    with pytest.raises(ValueError, match=r"logits must be \[2, 3, X, Y, Z\]"):
        OccupancyLoss(GRID, WEIGHTS)([logits[:, :2]], labels)
    with pytest.raises(ValueError, match="no whole-number reduction"):
        OccupancyLoss(GRID, WEIGHTS)([logits[:, :, :3]], labels)


def test_second_derivatives_are_refused() -> None:
    logits, labels = make_sample()
    logits.requires_grad_()
    (first,) = torch.autograd.grad(lovasz_softmax(logits.softmax(1), labels, 255), logits)
    assert first.abs().max() > 0
    with pytest.raises(NotImplementedError, match="lovasz_softmax has no second derivatives"):
        torch.autograd.grad(lovasz_softmax(logits.softmax(1), labels, 255), logits, create_graph=True)


def test_another_data_sets_weights_are_nobodys() -> None:
    grid = OccupancyGrid((0, 0, 0), (4, 4, 2), 1.0, tuple(f"class {i}" for i in range(18)), empty=17)
    with pytest.raises(ValueError, match="no published class weights: pass class_weights"):
        OccupancyLoss(grid)
