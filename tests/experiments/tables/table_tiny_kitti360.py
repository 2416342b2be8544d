"""Rows of one camera at a size that trains in seconds."""

from dataclasses import replace

from experiments.spec import load_table

_TABLE = load_table("table_kitti360")
_TOY = _TABLE.presets["toy"]
_WORLD = {"train_scenes": 1, "train_frames": 3, "val_scenes": 1, "val_frames": 1, "image_width": 352}

TABLE = replace(
    _TABLE,
    name="table_tiny_kitti360",
    rows=tuple(replace(row, schedules={}) for row in _TABLE.rows if row.model in ("symphonies", "monoscene")),
    presets={
        "toy": replace(
            _TOY,
            data=replace(_TOY.data, toyworld=_WORLD),  # the network is made for one size of images
            schedule=replace(_TOY.schedule, warmup_iterations=2, iterations=6, checkpoint_interval=2),
            check_shuffled_images=False,
        )
    },
)
