"""GaussianFlowOcc's sizes: the published one and one that two CPU cores can train."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from baselines.interface import OccupancyGrid
from baselines.options import check_class_weights, of_size
from baselines.tpvformer.config import TOY as TPVFORMER_TOY

Size = Literal["toy", "paper"]

LARGEST_SCALE = 1.0
"""Metres."""
OPERATIONS = ("temporal_att", "self_att", "cross_att", "rect")
"""What a block of the decoder does, in this order: attention to the Gaussians of the frame before, to all of its own, to the
images; and the means are moved."""
ATTRIBUTES: dict[str, tuple[float, ...]] = {"opacity": (1.0,), "scale": (0.3, 0.3, 0.3), "rotation": (1.0, 0.0, 0.0, 0.0)}
"""What of a Gaussian is decoded besides its mean and classes -> what it is where that is not: opaque, 0.3 m wide along each axis,
not rotated (mmdet3d/models/detectors/gaussianflowocc.py:398-405)."""

# configs/gaussianflowocc.py of boschresearch/GaussianFlowOcc.
PAPER: dict[str, Any] = dict(
    backbone=dict(
        type="ResNet",
        depth=50,
        num_stages=4,
        out_indices=(1, 2, 3),
        frozen_stages=-1,
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=False,
        with_cp=True,
        style="pytorch",
    ),
    neck=dict(type="FPN", in_channels=[512, 1024, 2048], out_channels=256, start_level=0, num_outs=3),
    gaussians=10_000,
    dim=256,
    heads=8,
    blocks=3,
    points=8,
    inducing=500,
    horizon=6,
    flow_layers=3,
    dropout=0.1,
    neighbourhood=4,
)

# The same model for images of 112 x 200 and a grid of 100 x 100 x 8 voxels of 0.8 m, trained from scratch.
TOY: dict[str, Any] = dict(
    backbone=TPVFORMER_TOY["backbone"],
    neck=TPVFORMER_TOY["neck"],
    gaussians=2_000,
    dim=64,
    heads=4,
    blocks=3,
    points=4,
    inducing=64,
    horizon=6,
    flow_layers=3,
    dropout=0.0,
    neighbourhood=2,
)

SIZES: dict[str, dict[str, Any]] = {"toy": TOY, "paper": PAPER}


def check_options(config: dict[str, Any]) -> None:
    """Raise ValueError or TypeError for arguments that the model would refuse: sizes, fields of ``teaching`` and ``read_out``,
    class weights and names of classes that are none of the grid, operations and attributes that there are not."""
    from baselines.gaussianflowocc.classes import moving_channels, rendered_classes
    from baselines.gaussianflowocc.losses import Teaching
    from baselines.gaussianflowocc.voxels import ReadOut

    grid = OccupancyGrid(**config["grid"])
    teaching = Teaching(**(config.get("teaching") or {}))
    ReadOut(**(config.get("read_out") or {}))
    check_class_weights(teaching.class_weights, grid.num_classes, "teaching: ")
    check_names("operations", config.get("operations"), OPERATIONS, "cross_att")
    check_names("attributes", config.get("attributes"), tuple(ATTRIBUTES))
    sizes = [config[name] for name in ("dim", "heads", "gaussians", "neighbourhood")]
    check_sizes(*sizes, config.get("largest_scale", LARGEST_SCALE))
    moving_channels(grid, rendered_classes(grid, config.get("catch_all")), config.get("moving"))


def check_sizes(dim: int, heads: int, gaussians: int, neighbourhood: int, largest_scale: float = LARGEST_SCALE) -> None:
    """Raise ValueError for sizes that cannot be."""
    if dim % heads:
        raise ValueError(f"dim {dim} must be a multiple of the number of heads {heads}")
    if gaussians < 1 or neighbourhood < 0 or not largest_scale > 0:
        raise ValueError(
            f"gaussians must be at least 1, neighbourhood 0 and largest_scale positive, got {gaussians}, {neighbourhood} and "
            f"{largest_scale}"
        )


def check_names(what: str, given: Any, known: tuple[str, ...], needed: str = "") -> tuple[str, ...]:
    """The names that are given, None: all of the known ones. Raises ValueError for others, another order, a name twice, and where
    the needed one is not among them."""
    if given is None:
        return known
    names = (given,) if isinstance(given, str) else tuple(given)
    if list(names) != [name for name in known if name in names]:
        raise ValueError(
            f"{what} must be some of {', '.join(known)}, each once and in this order, got {', '.join(map(str, names))}"
        )
    if needed and needed not in names:
        raise ValueError(f"{what} must have {needed}: nothing else looks at the images")
    return names


def gaussianflowocc_config(
    size: Size,
    grid: OccupancyGrid,
    renderer: str = "cpu",
    camera_seed: int = 0,
    loss: dict[str, Any] | None = None,
    gaussrender: dict[str, Any] | None = None,
    num_cameras: int = 6,
) -> dict[str, Any]:
    """A config for ``mmdet3d.registry.MODELS.build`` (after ``import baselines.gaussianflowocc``), plain data throughout.

    renderer  name of the backend that renders Gaussians
    loss      for other models: nothing that voxels say, shares of classes neither, weighs the losses on images

    Raises ValueError for an unknown size, and for ``gaussrender``: that is for models that are taught by voxels.
    """
    chosen = of_size("GaussianFlowOcc", size, SIZES)
    if gaussrender is not None:
        raise ValueError("GaussianFlowOcc renders Gaussians of its own: it takes no gaussrender")
    return dict(
        type="GaussianFlowOcc",
        grid=asdict(grid),
        renderer=renderer,
        camera_seed=camera_seed,
        num_cameras=num_cameras,
        **chosen,
    )
