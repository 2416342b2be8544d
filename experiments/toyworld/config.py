"""What toy world to generate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Layout = Literal["occ3d", "surroundocc", "kitti360", "ddad"]
LAYOUTS: tuple[str, ...] = get_args(Layout)

# Default image width, and the proportions of the official images (1600 x 900, 1408 x 376, 1936 x 1216) in lowest terms.
_NUSCENES_IMAGES = (400, 16, 9)
_IMAGES = {"occ3d": _NUSCENES_IMAGES, "surroundocc": _NUSCENES_IMAGES, "kitti360": (704, 176, 47), "ddad": (484, 121, 76)}


@dataclass(frozen=True)
class ToyWorldConfig:
    """What to generate: seed, number of scenes a split, key frames a scene, image width (pixels), JPEG quality, layout.

    ``val_scenes`` and ``val_frames`` are the size of the split that is evaluated, which is called "test" in kitti360; its
    "val" is one scene long. Frames are half a second apart, in ddad a tenth of one. An image width of 0 stands for the
    layout's own, JPEG quality is for layouts with such images.
    """

    seed: int = 0
    train_scenes: int = 32
    val_scenes: int = 8
    train_frames: int = 5
    val_frames: int = 5
    image_width: int = 0
    jpeg_quality: int = 90
    layout: Layout = "occ3d"

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"toy world: unknown layout '{self.layout}' (known: {', '.join(LAYOUTS)})")
        for name in ("train_scenes", "val_scenes", "train_frames", "val_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"toy world: {name} must be at least 1, got {getattr(self, name)}")
        width, step, _ = _IMAGES[self.layout]
        if self.image_width == 0:
            object.__setattr__(self, "image_width", width)  # a fingerprint is to name the width, not that it is the usual one
        if self.image_width < 64 or self.image_width % step:
            raise ValueError(f"toy world: image_width must be a multiple of {step} of at least 64, got {self.image_width}")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"toy world: jpeg_quality must be 1 to 100, got {self.jpeg_quality}")

    @property
    def image_height(self) -> int:
        _, width, height = _IMAGES[self.layout]
        return self.image_width * height // width

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "val", "test") if self.layout == "kitti360" else ("train", "val")

    def size(self, split: str) -> tuple[int, int]:
        """Scenes and key frames a scene of a split."""
        if split == "train":
            return self.train_scenes, self.train_frames
        return 1 if self.layout == "kitti360" and split == "val" else self.val_scenes, self.val_frames
