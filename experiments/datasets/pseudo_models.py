"""Models that say what images show: Grounded SAM, and metric depth. Needs transformers (extra ``pseudo``).

As boschresearch/GaussianFlowOcc labels nuScenes (groundedsam/generate_grounded_sam.py, tools/generate_m3d_nusc.py), with the same
Grounding DINO (Swin-B) and SAM (ViT-H) as transformers has them. But for this: depth is estimated of images in red, green, blue,
where upstream's are blue, green, red with statistics of the other order; images in which nothing is found are unknown everywhere.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from experiments.datasets.layout import OCC3D_CLASSES
from experiments.datasets.unpickle import DataError

# What is looked for, class by class of Occ3D (generate_grounded_sam.py:57-75); the sky is unknown.
PROMPTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("sky", ("sky",)),
    ("car", ("car", "vehicle", "sedan", "van", "jeep")),
    ("truck", ("lorry", "truck", "tractor")),
    ("trailer", ("trailer",)),
    ("bus", ("bus",)),
    ("construction_vehicle", ("excavator", "crane")),
    ("bicycle", ("bicycle",)),
    ("motorcycle", ("motorcycle", "scooter")),
    ("pedestrian", ("person", "pedestrian")),
    ("traffic_cone", ("traffic cone",)),
    ("barrier", ("barricade", "barrier")),
    ("driveable_surface", ("highway", "street")),
    ("other_flat", ("traffic-island", "delimiter")),
    ("sidewalk", ("sidewalk", "walkway")),
    ("terrain", ("grass", "sand", "gravel", "terrain")),
    ("manmade", ("building", "wall", "fence", "pole", "sign", "light", "bridge", "billboard")),
    ("vegetation", ("bush", "plants", "tree")),
)
THRESHOLD = 0.2
"""Of a box's score. (Upstream's threshold of text, .20 too, says which of a prompt's words a box is of: all are of its class.)"""

DETECTOR, SEGMENTER = "IDEA-Research/grounding-dino-base", "facebook/sam-vit-huge"
DEPTH = "depth-anything/Depth-Anything-V2-Metric-Outdoor-Large-hf"
_BOXES = 16  # that are segmented together
_METRIC = ("zoedepth", "depth_pro", "glpn")
FARTHEST = 300.0
"""Metres, to which depth is clamped (generate_m3d_nusc.py:27-89)."""


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DataError(f"--device {name}: {' '.join(str(error).split())[:200]}") from None
    return device


def _loaded(kind: Any, weights: Path | None, name: str, what: str) -> Any:
    """``kind.from_pretrained`` of a folder, or of the hub; DataError with the way out if there is no such model."""
    if weights is not None and not (weights / "config.json").is_file():
        raise DataError(
            f"{weights} holds no model (config.json, model.safetensors, ...) of {what}: download all files of "
            f"huggingface.co/{name} into it, or leave out --weights where the hub can be reached"
        )
    try:
        return kind.from_pretrained(weights or name, **({"local_files_only": True} if weights else {}))
    except Exception as error:  # noqa: BLE001 - a folder of anybody's, and a network, which fail in many ways
        problem = " ".join(str(error).split())[:300]
        raise DataError(
            f"{weights or name} cannot be loaded as {what} ({problem}): download all files of huggingface.co/{name} into a "
            "folder and name it with --weights"
        ) from None


class GroundedSam:
    """Image [h, w, 3] uint8, red, green, blue -> classes [h, w] uint8, 0 unknown.

    weights  a folder with ``grounding-dino`` and ``sam``, each as transformers saves a model with its processor; None: the hub's
    """

    def __init__(self, weights: Path | None, device: str) -> None:
        from transformers import AutoImageProcessor, AutoProcessor, GroundingDinoForObjectDetection, SamModel

        folders = [None if weights is None else weights / part for part in ("grounding-dino", "sam")]
        self.device = _device(device)
        self.look_for = _loaded(AutoProcessor, folders[0], DETECTOR, "Grounding DINO")
        self.detector = _loaded(GroundingDinoForObjectDetection, folders[0], DETECTOR, "Grounding DINO").to(self.device).eval()
        self.look_at = _loaded(AutoImageProcessor, folders[1], SEGMENTER, "SAM")
        self.sam = _loaded(SamModel, folders[1], SEGMENTER, "SAM").to(self.device).eval()

    @staticmethod
    def source(weights: Path | None) -> str:
        """What labels are made by, for their files."""
        return f"{DETECTOR} and {SEGMENTER}" if weights is None else f"Grounded SAM of {weights.name}"

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8], focal: float) -> NDArray[np.uint8]:
        found = [(*self.boxes(image, prompt), name) for name, prompts in PROMPTS for prompt in prompts]
        boxes = torch.cat([boxes for boxes, _, _ in found])
        scores = torch.cat([scores for _, scores, _ in found])
        classes = [OCC3D_CLASSES.index(name) if name != "sky" else 0 for boxes, _, name in found for _ in boxes]
        return strongest(self.masks(image, boxes), scores.tolist(), classes, image.shape[:2])

    def boxes(self, image: NDArray[np.uint8], prompt: str) -> tuple[Tensor, Tensor]:
        """Corners [n, 4] (left, top, right, bottom; pixels) and scores [n] of what a prompt finds."""
        inputs = self.look_for(images=image, text=f"{prompt}.", return_tensors="pt").to(self.device)
        said = self.detector(**inputs)
        scores = said.logits[0].sigmoid().amax(dim=-1)
        middle, size = said.pred_boxes[0].split(2, dim=-1)
        height, width = image.shape[:2]
        corners = torch.cat([middle - size / 2, middle + size / 2], dim=-1)
        corners = corners * corners.new_tensor([width, height, width, height])
        return corners[scores > THRESHOLD], scores[scores > THRESHOLD]

    def masks(self, image: NDArray[np.uint8], boxes: Tensor) -> Sequence[NDArray[np.bool_]]:
        """One [h, w] of each box."""
        if not len(boxes):
            return []
        inputs = self.look_at(image, return_tensors="pt")
        seen = self.sam.get_image_embeddings(inputs["pixel_values"].to(self.device))
        rows, columns = (int(n) for n in inputs["reshaped_input_sizes"][0])
        height, width = image.shape[:2]
        scaled = boxes * boxes.new_tensor([columns / width, rows / height] * 2)
        whole = self.sam.config.vision_config.image_size
        found: list[NDArray[np.bool_]] = []
        for some in scaled.split(_BOXES):
            logits = self.sam(image_embeddings=seen, input_boxes=some[None], multimask_output=False).pred_masks[0]
            logits = F.interpolate(logits, (whole, whole), mode="bilinear", align_corners=False)[..., :rows, :columns]
            logits = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
            found += list((logits[:, 0] > 0).cpu().numpy())
        return found


def strongest(
    masks: Sequence[NDArray[np.bool_]], scores: Sequence[float], classes: Sequence[int], shape: tuple[int, ...]
) -> NDArray[np.uint8]:
    """[h, w] class of each pixel's mask with the highest score; 0 where there is none."""
    best, labels = np.zeros(shape), np.zeros(shape, np.uint8)
    for mask, score, label in zip(masks, scores, classes, strict=True):
        wins = mask & (score > best)
        best[wins], labels[wins] = score, label
    return labels


class MetricDepth:
    """Image [h, w, 3] uint8, red, green, blue -> depth [h, w] float32 in metres, by a model of transformers.

    weights  its folder, as transformers saves a model with its processor; None: the hub's ``DEPTH``
    """

    def __init__(self, weights: Path | None, device: str) -> None:
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation

        self.device = _device(device)
        self.look_at = _loaded(AutoImageProcessor, weights, DEPTH, "a model of depth")
        self.model = _loaded(AutoModelForDepthEstimation, weights, DEPTH, "a model of depth").to(self.device).eval()
        config = self.model.config
        if config.model_type not in _METRIC and getattr(config, "depth_estimation_type", "") != "metric":
            raise DataError(
                f"{weights} is a {config.model_type} whose depth is relative, metres are needed: take a metric one, "
                f"huggingface.co/{DEPTH} say, or Metric3D (--metric3d)"
            )
        try:
            self(np.zeros((90, 160, 3), np.uint8), 100.0)
        except Exception as error:  # noqa: BLE001 - of models that were not tried here
            problem = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise DataError(
                f"{weights or DEPTH} loads but does not run ({problem}): some of transformers' models, ZoeDepth say, need the "
                f"torchvision that fits torch {torch.__version__}; or take huggingface.co/{DEPTH}, which does not"
            ) from None

    @staticmethod
    def source(weights: Path | None) -> str:
        """What depth is made by, for its files."""
        return DEPTH if weights is None else weights.name

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8], focal: float) -> NDArray[np.float32]:
        said = self.model(**self.look_at(images=image, return_tensors="pt").to(self.device))
        sizes = {"target_sizes": [image.shape[:2]], "source_sizes": [image.shape[:2]]}
        known = inspect.signature(self.look_at.post_process_depth_estimation).parameters
        sizes = {name: value for name, value in sizes.items() if name in known}
        depth = self.look_at.post_process_depth_estimation(said, **sizes)[0]["predicted_depth"]
        return depth.float().clamp(0, FARTHEST).cpu().numpy()


class Metric3D:
    """The same by Metric3D v2's ViT-L, as upstream runs it (generate_m3d_nusc.py:27-89), but for the order of colours.

    folder   a copy of github.com/YvanYin/Metric3D; its hubconf.py is run
    weights  metric_depth_vit_large_800k.pth; only tensors are read of it
    """

    SIZE = (616, 1064)
    MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

    def __init__(self, folder: Path, weights: Path | None, device: str) -> None:
        get = "huggingface.co/JUGGHM/Metric3D has metric_depth_vit_large_800k.pth: name it with --weights FILE"
        if not (folder / "hubconf.py").is_file():
            raise DataError(f"--metric3d {folder} has no hubconf.py: name a copy of github.com/YvanYin/Metric3D")
        if weights is None or not weights.is_file():
            raise DataError(f"{f'{weights} is no file' if weights else '--metric3d needs weights'}: {get}")
        self.device = _device(device)
        try:
            model = torch.hub.load(str(folder), "metric3d_vit_large", source="local", pretrain=False)
            stored = torch.load(weights, map_location="cpu", weights_only=True)
            model.load_state_dict(stored.get("model_state_dict", stored), strict=False)
        except Exception as error:  # noqa: BLE001 - the folder's own code, and a file of anybody's
            problem = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise DataError(f"Metric3D of {folder} with {weights} cannot be loaded ({problem}): {get}") from None
        self.model = model.to(self.device).eval()

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8], focal: float) -> NDArray[np.float32]:
        height, width = image.shape[:2]
        scale = min(self.SIZE[0] / height, self.SIZE[1] / width)
        rows, columns = int(height * scale), int(width * scale)
        top, left = (self.SIZE[0] - rows) // 2, (self.SIZE[1] - columns) // 2
        small = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR)
        padded = np.empty((*self.SIZE, 3), np.float32)
        padded[:] = self.MEAN
        padded[top : top + rows, left : left + columns] = small
        planes = torch.from_numpy((padded - np.array(self.MEAN, np.float32)) / np.array(self.STD, np.float32)).permute(2, 0, 1)
        depth, *_ = self.model.inference({"input": planes[None].to(self.device)})
        depth = depth.reshape(1, 1, *self.SIZE)[..., top : top + rows, left : left + columns]
        depth = F.interpolate(depth, (height, width), mode="bilinear", align_corners=False)[0, 0]
        # Metric3D says depth of a camera with a focal length of 1000 pixels.
        return (depth.float() * (focal * scale / 1000)).clamp(0, FARTHEST).cpu().numpy()
