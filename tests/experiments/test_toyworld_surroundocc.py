"""The toy world in the SurroundOcc layout: the same drives, read back by the loader, labelled in the lidar frame."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from grids import surroundocc_grid

from experiments.datasets.layouts import describe
from experiments.datasets.occ3d import Occ3DNuScenes
from experiments.datasets.surroundocc import SurroundOccNuScenes
from experiments.datasets.transforms import ImageTransform
from experiments.toyworld import ToyWorldConfig, ensure, fingerprint, summary
from experiments.toyworld.catalogue import CLASS_ID, FREE
from experiments.toyworld.surroundocc import LATTICE, sparse_labels, surface

OCC3D = ToyWorldConfig(seed=3, train_scenes=1, val_scenes=1, train_frames=2, val_frames=2, image_width=208)
SURROUNDOCC = replace(OCC3D, layout="surroundocc")
IMAGE = ImageTransform(width=208, height=112)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def dataset(cache: Path) -> SurroundOccNuScenes:
    return SurroundOccNuScenes(ensure(SURROUNDOCC, cache), "val", image=IMAGE, cache=True)


@pytest.fixture(scope="module")
def twin(cache: Path) -> Occ3DNuScenes:
    """The same frames in the Occ3D layout."""
    return Occ3DNuScenes(ensure(OCC3D, cache), "val", image=IMAGE, static_projection=False, cache=True)


def test_worlds_of_recorded_numbers_keep_their_name() -> None:
    """Committed records name their data by it."""
    assert fingerprint(ToyWorldConfig()) == "599c54ca497b43cf"
    assert fingerprint(ToyWorldConfig(layout="surroundocc")) != fingerprint(ToyWorldConfig())
    with pytest.raises(ValueError, match="unknown layout 'kitti'"):
        ToyWorldConfig(layout="kitti")  # type: ignore[arg-type]


def test_layout_is_complete(cache: Path, dataset: SurroundOccNuScenes) -> None:
    root = ensure(SURROUNDOCC, cache)
    assert [(f.dataset, f.split, f.frames, f.usable) for f in describe(root)] == [
        ("SurroundOcc-nuScenes", "train", 2, 2),
        ("SurroundOcc-nuScenes", "val", 2, 2),
    ]
    assert not (root / "gts").exists()
    grid = surroundocc_grid()
    assert (LATTICE.shape, LATTICE.lower, LATTICE.edge) == (grid.shape, grid.lower, grid.voxel_size)
    counts = summary(root)["visible_voxels"]["val"]
    rows = sum(int((dataset.labels(i)[0] != 0).sum()) for i in range(2))
    assert sum(counts) == 2 * 640_000 and sum(counts) - counts[FREE] == rows


def test_frames_images_and_cameras_are_those_of_the_occ3d_layout(dataset: SurroundOccNuScenes, twin: Occ3DNuScenes) -> None:
    for index in range(2):
        mine, theirs = dataset[index], twin[index]
        assert mine.meta[0]["token"] == theirs.meta[0]["token"]
        assert torch.equal(mine.images, theirs.images)
        to_lidar = theirs.reference_to_lidar.double()
        composed = mine.reference_to_camera.double() @ to_lidar[:, None]
        assert composed.numpy() == pytest.approx(theirs.reference_to_camera.double().numpy(), abs=1e-4)
        assert (mine.projection.double() @ to_lidar[:, None]).numpy() == pytest.approx(theirs.projection.numpy(), abs=2e-2)


def occ3d_voxels(dataset: SurroundOccNuScenes, twin: Occ3DNuScenes, index: int, places: np.ndarray) -> np.ndarray:
    """Occ3D voxel indices [n, 3] of the centres of SurroundOcc voxels [n, 3]."""
    from_lidar = np.linalg.inv(twin[index].reference_to_lidar[0].double().numpy())
    centres = (places + 0.5) * dataset.grid.voxel_size + dataset.grid.lower
    ego = centres @ from_lidar[:3, :3].T + from_lidar[:3, 3]
    return np.floor((ego - twin.grid.lower) / twin.grid.voxel_size).astype(int)


def share_found(dataset: SurroundOccNuScenes, twin: Occ3DNuScenes, index: int, class_id: int, other_id: int) -> tuple[int, float]:
    """Number of SurroundOcc voxels of a class in Occ3D's range, and how many of them lie beside an Occ3D voxel of ``other_id``.

    The voxels of the grids do not coincide, and surfaces lie at their edges: one Occ3D voxel around is looked at.
    """
    voxels = occ3d_voxels(dataset, twin, index, np.argwhere(dataset.labels(index)[0] == class_id))
    voxels = voxels[((voxels >= 1) & (voxels < np.array(twin.grid.shape) - 1)).all(axis=1)]
    true = twin.labels(index)[0]
    found = np.zeros(len(voxels), bool)
    for offset in np.ndindex(3, 3, 3):
        found |= true[tuple((voxels + np.array(offset) - 1).T)] == other_id
    return len(voxels), float(found.mean()) if len(voxels) else 1.0


def test_labels_show_the_same_things_in_the_lidar_frame(dataset: SurroundOccNuScenes, twin: Occ3DNuScenes) -> None:
    seen = 0
    for index in range(2):
        labels, counted = dataset.labels(index)
        assert (counted == (labels != 255)).all()
        for class_id in range(1, 17):
            number, share = share_found(dataset, twin, index, class_id, class_id)
            seen += number
            assert share > 0.9, class_id
    assert seen > 10_000


def test_what_occ3d_calls_others_is_unknown_here(dataset: SurroundOccNuScenes, twin: Occ3DNuScenes) -> None:
    found = [share_found(dataset, twin, index, 255, CLASS_ID["others"]) for index in range(2)]
    assert sum(number for number, _ in found) > 0 and all(share > 0.9 for _, share in found)


def test_only_surfaces_are_labelled() -> None:
    """A block of 5 x 5 x 5 on the ground: its faces, not its inside; the ground beside it, not the one below."""
    labels = np.full((9, 9, 9), FREE, np.uint8)
    labels[:, :, 1] = CLASS_ID["driveable_surface"]
    labels[2:7, 2:7, 1:6] = CLASS_ID["manmade"]
    labels[0, 0, 2] = CLASS_ID["others"]
    shown = surface(labels)
    assert shown[8, 8, 1] and shown[0, 8, 1]
    assert not shown[3:6, 3:6, 1:5].any() and not shown[0, 0, 1]  # inside, and below the thing that stands on it
    assert shown[2, 2:7, 2:6].all() and shown[2:7, 2:7, 5].all()
    rows = sparse_labels(labels)
    assert rows.dtype == np.int64 and set(rows[:, 3]) == {0, 11, 15}
    assert rows[(rows[:, :3] == [0, 0, 2]).all(axis=1)].tolist() == [[0, 0, 2, 0]]
