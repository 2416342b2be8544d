"""GaussianOcc's first stage on DDAD for tests, which has no voxel labels."""

from dataclasses import replace

from experiments.tables.table_tiny_gsp import TABLE as TINY

from experiments.tables.table_gaussianocc_depth_ddad import TABLE as DDAD

_TOY = TINY.presets["toy"]
_UNLABELLED = {name: getattr(DDAD.presets["toy"], name) for name in ("class_weights", "class_bias", "loss_in_sight")}

TABLE = replace(
    TINY,
    name="table_tiny_ddad",
    dataset=DDAD.dataset,
    rows=(TINY.row("gaussianocc-gsp"),),
    presets={
        "toy": replace(_TOY, data=replace(_TOY.data, toyworld={**_TOY.data.toyworld, "image_width": 242}), **_UNLABELLED),
    },
)
