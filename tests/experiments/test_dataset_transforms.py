"""Image and label transforms against hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.datasets.transforms import ImageTransform, coarsen_labels, distort


def test_published_setting_cuts_the_top_four_rows() -> None:
    transform = ImageTransform()
    image = np.random.default_rng(0).integers(0, 256, (900, 1600, 3), dtype=np.uint8)
    assert np.array_equal(transform.apply(image), image[4:])
    assert np.array_equal(transform.matrix(1600, 900), [[1, 0, 0], [0, 1, -4], [0, 0, 1]])


def test_matrix_says_where_a_mark_goes() -> None:
    """A bright square in a native image is found where the matrix sends its centre."""
    transform = ImageTransform(width=200, height=100)
    image = np.zeros((225, 400, 3), np.uint8)
    image[150:160, 90:110] = 255
    small = transform.apply(image)[..., 0].astype(float)
    assert small.shape == (100, 200)
    rows, columns = np.mgrid[:100, :200] + 0.5
    seen = np.array([(columns * small).sum(), (rows * small).sum()]) / small.sum()
    u, v, _ = transform.matrix(400, 225) @ [100.0, 155.0, 1.0]
    assert seen == pytest.approx([u, v], abs=0.05)
    assert v == pytest.approx(155.0 * 112 / 225 - 12)


def test_normalise_keeps_blue_green_red() -> None:
    image = np.array([[[103, 116, 123], [0, 255, 10]]], np.uint8)
    planes = ImageTransform(width=2, height=1, std=(1.0, 2.0, 1.0)).normalise(image)
    assert planes.dtype == np.float32
    assert planes[:, 0] == pytest.approx(np.array([[103 - 103.53, -103.53], [-0.14, 69.36], [123 - 123.675, -113.675]]), abs=1e-4)


def test_distortion_covers_its_ranges_and_leaves_the_input() -> None:
    grey = np.full((2, 2, 3), 100.0, np.float32)
    generator = np.random.default_rng(0)
    values = np.array([distort(grey, generator)[0, 0, 0] for _ in range(4000)])
    assert (grey == 100.0).all()
    # Grey has no saturation: brightness 68..132, then contrast x0.5..1.5 for half of the draws.
    assert values.min() == pytest.approx(34.0, abs=4) and values.max() == pytest.approx(198.0, abs=8)
    untouched = np.isclose(values, 100.0, atol=1e-3).mean()
    assert untouched == pytest.approx(0.25, abs=0.03)


def test_distortion_moves_hue_and_saturation_of_colour() -> None:
    red = np.zeros((1, 1, 3), np.float32)
    red[..., 2] = 200.0
    generator = np.random.default_rng(1)
    drawn = np.array([distort(red, generator)[0, 0] for _ in range(2000)])
    places = drawn.argmax(axis=1)
    # Half of the draws permute the channels, each of the three equally often: 1/2 + 1/6, 1/6, 1/6.
    assert np.bincount(places, minlength=3) / len(places) == pytest.approx([1 / 6, 1 / 6, 2 / 3], abs=0.04)
    # Negative values (not clipped) come from brightness or saturation; hue gives the second channel up to 18/60.
    assert drawn.min() < 0
    second = np.sort(drawn, axis=1)[:, 1] / drawn.max(axis=1)
    assert 0.25 < second.max() < 0.75


def test_coarse_voxel_takes_the_most_frequent_occupied_child() -> None:
    labels = np.full((4, 2, 2), 17, np.uint8)
    visible = np.zeros(labels.shape, bool)
    labels[0, 0, 0] = 5  # one occupied child among seven free
    labels[2] = [[3, 9], [9, 3]]  # a tie: lowest id
    labels[3, 0, 0] = 0  # class 0 counts like the others
    visible[1, 1, 1] = True
    coarse, seen = coarsen_labels(labels, visible, 2, empty=17, classes=18)
    assert coarse.shape == (2, 1, 1) and coarse.ravel().tolist() == [5, 3]
    assert seen.ravel().tolist() == [True, False]
    labels[2, 0, 1] = 3
    assert coarsen_labels(labels, visible, 2, 17, 18)[0].ravel().tolist() == [5, 3]
    labels[2] = 17
    assert coarsen_labels(labels, visible, 2, 17, 18)[0].ravel().tolist() == [5, 0]
    labels[3] = 17
    assert coarsen_labels(labels, visible, 2, 17, 18)[0].ravel().tolist() == [5, 17]


def test_coarsening_agrees_with_a_plain_loop() -> None:
    random = np.random.default_rng(3)
    labels = random.choice([1, 2, 17], size=(8, 4, 4), p=[0.2, 0.2, 0.6]).astype(np.uint8)
    visible = random.random(labels.shape) < 0.1
    coarse, seen = coarsen_labels(labels, visible, 2, 17, 18)
    for x, y, z in np.ndindex(4, 2, 2):
        block = np.s_[2 * x : 2 * x + 2, 2 * y : 2 * y + 2, 2 * z : 2 * z + 2]
        occupied = labels[block][labels[block] != 17]
        expected = np.bincount(occupied).argmax() if occupied.size else 17
        assert coarse[x, y, z] == expected and seen[x, y, z] == visible[block].any()


def test_coarsening_refuses_what_does_not_fit() -> None:
    visible = np.zeros((3, 2, 2), bool)
    with pytest.raises(ValueError, match="cannot be coarsened by 2"):
        coarsen_labels(np.zeros((3, 2, 2), np.uint8), visible, 2, 17, 18)
    with pytest.raises(ValueError, match="hold 200"):
        coarsen_labels(np.full((2, 2, 2), 200, np.uint8), visible[:2], 2, 17, 18)
