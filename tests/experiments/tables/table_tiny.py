"""A table for tests: the real rows at sizes that train in seconds."""

from dataclasses import replace

from experiments.spec import Column, DataPreset, Preset, Row, Schedule, TableSpec

BACKBONE = {
    "type": "ResNet",
    "depth": 18,
    "base_channels": 8,
    "stem_channels": 8,
    "num_stages": 3,
    "strides": (1, 2, 2),
    "dilations": (1, 1, 1),
    "out_indices": (0, 1, 2),
    "norm_cfg": {"type": "BN", "requires_grad": True},
    "norm_eval": False,
    "style": "pytorch",
}
"""Of three stages, for other tiny tables."""
SIZES = {
    "backbone": {
        "type": "ResNet",
        "depth": 18,
        "base_channels": 8,
        "stem_channels": 8,
        "out_indices": (2, 3),
        "norm_cfg": {"type": "BN", "requires_grad": True},
        "style": "pytorch",
    },
    "neck": {"type": "FPN", "in_channels": [32, 64], "out_channels": 16, "num_outs": 2},
    "dim": 16,
    "heads": 2,
    "num_layers": 1,
    "anchors": (2, 4, 4),
    "points": (2, 4, 4),
    "self_points": 2,
    "hidden": 16,
    "out": 8,
    "dropout": 0.1,
}

TABLE = TableSpec(
    name="table_tiny",
    title="Tiny",
    dataset="occ3d",
    columns=(Column("mIoU", "mIoU"), Column("RayIoU", "RayIoU")),
    rows=(
        Row("prior", "Prior", model="prior", presets=("toy",)),
        Row("small", "Small", model="tpvformer", options=SIZES),
        Row("small+gaussrender", "Small + GaussRender", model="tpvformer", gaussrender=True, base="small", options=SIZES),
        Row("quoted", "Quoted", note="quoted only"),
    ),
    presets={
        "toy": Preset(
            data=DataPreset(
                source="toyworld",
                image_size=(96, 48),
                coarsen=4,
                label_camera_width=64,
                toyworld={"train_scenes": 1, "train_frames": 3, "val_scenes": 2, "val_frames": 1, "image_width": 192},
            ),
            model_size="toy",
            schedule=Schedule(
                batch_size=1,
                lr=1e-3,
                weight_decay=1e-4,
                warmup_iterations=2,
                lr_min=1e-6,
                iterations=6,
                checkpoint_interval=2,
            ),
            gaussrender={"bev_reduction": 4},
            check_shuffled_images=True,
        ),
        "paper": Preset(
            data=DataPreset(source="real", image_size=(1600, 896)),
            model_size="paper",
            schedule=Schedule(batch_size=1, lr=2e-4, weight_decay=1e-4, warmup_iterations=5, lr_min=2e-7, epochs=1),
        ),
    },
)

_TOY = TABLE.presets["toy"]
BRIEF = replace(
    _TOY,
    data=replace(_TOY.data, toyworld={**_TOY.data.toyworld, "val_scenes": 1}),
    schedule=replace(_TOY.schedule, iterations=2),
    check_shuffled_images=False,
)
"""For other tiny tables: two iterations, one frame that is evaluated."""
