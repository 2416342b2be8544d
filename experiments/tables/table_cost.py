"""What training with the module costs: time, memory and parameters of short runs, with and without it."""

from dataclasses import replace

from experiments.spec import Column, Preset, TableSpec
from experiments.tables.table_occ3d import TABLE as OCC3D


def _short(preset: Preset, iterations: int) -> Preset:
    schedule = replace(preset.schedule, iterations=iterations, epochs=None, checkpoint_interval=iterations)
    return replace(preset, schedule=schedule, check_shuffled_images=False, short_evaluation=True)


TABLE = TableSpec(
    name="table_cost",
    title="Training cost of GaussRender",
    dataset=OCC3D.dataset,
    columns=(
        Column("seconds_per_iteration", "time of an iteration", digits=3, higher_is_better=False, unit="s", relative=True),
        Column("train_peak_memory_mb", "peak memory", digits=0, higher_is_better=False, unit="MiB", relative=True),
        Column("parameters", "trained parameters", digits=0, higher_is_better=False, unit="", relative=True),
    ),
    rows=tuple(replace(row, schedules={}, note="") for row in OCC3D.rows if row.trained and row.recipe.renderer == "gaussians"),
    presets={
        "toy": _short(OCC3D.presets["toy"], 40),
        "mini": _short(OCC3D.presets["mini"], 200),
        "paper": _short(OCC3D.presets["paper"], 200),
    },
    notes=(
        "Time: forward pass, backward pass and optimizer step, without reading of data; median of all iterations but the first "
        "five. Memory: the allocator's peak up to the end of training on a GPU; without one, the process's resident memory, to "
        "which earlier cells of the same command add: run each row by a command of its own. A prediction needs none of it.",
    ),
    brief=True,
)
