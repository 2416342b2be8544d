"""GaussianOcc's pseudo semantics of images: names, paths and format. No torch.

    nuscenes/nuscenes_semantic/samples/CAM_*/<image>_mask.bin  int8 [900, 1600] of nuScenes' training images
    ddad/ddad_semantic/<scene>/<CAMERA>/<time>_mask.bin        int8 [1216, 1936] of DDAD's

No header, row by row; ``nuscenes_semantic`` of the data root is found too. What a pixel shows is named by the place of the prompt
that found it (``CLASS_OF_SOURCE``), -1 where none did. (GANWANSHUI/GaussianOcc datasets/nusc_dataset.py:41-59, ddad_dataset.py;
made by JunchengYan/GroundedSAM_OccNeRF, and for DDAD by Fang2896/GroundedSAM_GaussianOcc)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.datasets.dataset import PartFiles
from experiments.datasets.layout import either
from experiments.datasets.layout_camera_frames import TOY
from experiments.datasets.unpickle import DataError

FOLDER, DDAD_FOLDER = "nuscenes_semantic", "ddad_semantic"
SKY = 17
"""Occ3D's empty class: what is known of a pixel in the sky is that nothing is there."""
UNLABELLED = 255
CLASS_OF_SOURCE = np.array([0, 4, 11, 3, 10, 14, 16, 13, 2, 1, 7, 15, 6, 5, 9, 8, SKY], np.uint8)
"""Occ3D's class by source id: 0 ignored, sedan, highway, bus, truck, terrain, tree, sidewalk, bicycle, barrier, person, building,
motorcycle, crane, trailer, cone, sky. No prompt finds 12, other_flat."""
GET = (
    "GaussianOcc's README links them (github.com/GANWANSHUI/GaussianOcc); Grounded SAM makes them as "
    "github.com/JunchengYan/GroundedSAM_OccNeRF says, for DDAD github.com/Fang2896/GroundedSAM_GaussianOcc"
)
TAKERS = "Semantics of images are only read by models that learn from them, as GaussianOcc does; the other rows run without them."


def path_of(data_root: str | Path, image: Path) -> Path:
    """Where the semantics of one of nuScenes' images lie."""
    name = Path("samples", image.parent.name, f"{image.stem}_mask.bin")
    return either(Path(data_root, "nuscenes", FOLDER, name), Path(data_root, FOLDER, name))


def read_semantics(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Occ3D's classes [h, w] of an image of ``size`` (width, height), ``SKY`` in the sky and ``UNLABELLED`` where nothing was
    found; raises DataError naming the file if it is missing, cut off or of another size, or holds what is no source id."""
    if not path.is_file():
        raise DataError(f"semantics {path} are missing: {GET}")
    width, height = size
    if path.stat().st_size != width * height:
        raise DataError(
            f"semantics {path} have {path.stat().st_size} bytes, one for each pixel of the {width}x{height} image is expected: "
            f"copy or make the file again; {GET}"
        )
    stored = np.fromfile(path, np.int8).reshape(height, width)
    lowest, highest = int(stored.min()), int(stored.max())
    if lowest < -1 or highest >= len(CLASS_OF_SOURCE):
        wrong = lowest if lowest < -1 else highest
        raise DataError(f"semantics {path} hold {wrong}, known: 0..{len(CLASS_OF_SOURCE) - 1}, and -1 for unlabelled; {GET}")
    return np.where(stored < 0, np.uint8(UNLABELLED), CLASS_OF_SOURCE[stored])


def part_files() -> dict[str, PartFiles]:
    """The files of ``semantics`` of a data set of nuScenes' images with Occ3D's labels."""

    def files(root: Path, split: str, frames: list[list[Path]]) -> list[list[Path]]:
        return [[path_of(root, image) for image in images if split == "train"] for _, *images in frames]

    return {"semantics": PartFiles(files, GET, TAKERS, made=TOY)}
