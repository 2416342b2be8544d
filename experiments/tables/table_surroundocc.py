"""SurroundOcc-nuScenes: dense labels in the lidar frame, no visibility mask; the second table of GaussRender."""

from dataclasses import replace

from baselines.gaussianformer2.recipe import SIZES as GAUSSIANFORMER2_SIZES
from experiments.spec import Column, Row, Schedule, TableSpec
from experiments.tables.table_occ3d import OCCFORMER, SURROUNDOCC, TPVFORMER
from experiments.tables.table_occ3d import TABLE as OCC3D

# config/prob/nuscenes_gs12800.py, config/_base_/misc.py and train.py of huang-yh/GaussianFormer, a sample a GPU. How its first
# stage was trained is not published: the same is taken.
_GAUSSIANFORMER2 = Schedule(
    batch_size=1,
    lr=4e-4,
    weight_decay=1e-2,
    warmup_iterations=500,
    lr_min=4e-5,
    epochs=20,
    backbone_lr=0.1,
    grad_clip=35.0,
)
# Validation mIoU of seed 0, where the per-voxel prior has 5.14: 8.03 after 400 iterations at 3e-3, 9.87 after 800 at 4e-3, 7.64
# after 1000 at 5e-3, 10.75 after 1000 at 3e-3.
_GAUSSIANFORMER2_TOY = replace(
    OCC3D.presets["toy"].schedule, lr=3e-3, iterations=1000, warmup_iterations=50, betas=(0.9, 0.999), grad_clip=35.0
)
_GAUSSIANFORMER2_INIT = Row(
    "gaussianformer2-init",
    "GaussianFormer-2, first stage",
    model="gaussianformer2_init",
    note="where along rays something is: its voxels are those with a point drawn of that, all of one class, so that its mIoU "
    "says nothing; how it was trained is not published",
    schedules={
        "toy": replace(_GAUSSIANFORMER2_TOY, iterations=200),
        "mini": replace(_GAUSSIANFORMER2, epochs=1),
        "paper": _GAUSSIANFORMER2,
    },
)
GAUSSIANFORMER2 = Row(
    "gaussianformer2",
    "GaussianFormer-2",
    model="gaussianformer2",
    starts_from=_GAUSSIANFORMER2_INIT.name,
    note="12,800 Gaussians (Prob-128), which the quoted row presumably is. A user who trained it has about 4 less (issue 69 of "
    "huang-yh/GaussianFormer), and of its predecessor's weights users find 17.6 for 19.31 (issue 82)",
    schedules={
        "toy": _GAUSSIANFORMER2_TOY,
        "mini": replace(_GAUSSIANFORMER2, epochs=1),
        "paper": _GAUSSIANFORMER2,
    },
)


def _of_size(size: str, title: str, note: str) -> Row:
    name = f"{GAUSSIANFORMER2.name}-{size}"
    options = GAUSSIANFORMER2_SIZES[size]
    return replace(GAUSSIANFORMER2, name=name, title=title, note=note, options=options, presets=("mini", "paper"))


TABLE = TableSpec(
    name="table_surroundocc",
    title="SurroundOcc-nuScenes: semantic occupancy with rendering supervision",
    dataset="surroundocc",
    columns=(
        Column("IoU", "IoU"),
        Column("mIoU", "mIoU"),
    ),
    rows=(
        Row("prior", "Per-voxel prior", model="prior", presets=("toy",), note="each voxel's most frequent training label"),
        TPVFORMER,
        TPVFORMER.rendered(),
        SURROUNDOCC,
        SURROUNDOCC.rendered(),
        OCCFORMER,
        OCCFORMER.rendered("a row of this project"),
        GAUSSIANFORMER2,
        GAUSSIANFORMER2.rendered("a row of this project: what is rendered are its voxels, by their probabilities"),
        _of_size(
            "prob-64",
            "GaussianFormer-2, 6,400 Gaussians",
            "a user who trained it reports 19.25 (issue 69 of huang-yh/GaussianFormer)",
        ),
        _of_size("prob-256", "GaussianFormer-2, 25,600 Gaussians", ""),
        _GAUSSIANFORMER2_INIT,
    ),
    # Sizes and schedules are the same on both data sets. What no camera sees is labelled here, and evaluated: with 0.3 of the
    # cross entropy over all voxels TPVFormer has 12.4 mIoU after 400 iterations (seed 0), with none of it 9.6, with all 7.6.
    presets={**OCC3D.presets, "toy": replace(OCC3D.presets["toy"], loss_in_sight=0.7)},
)
