"""What training costs, by short runs: with and without GaussRender, and GaussianOcc's splats in place of volumes."""

from dataclasses import replace

from experiments.spec import Column, Preset, PresetName, Row, Schedule, TableSpec
from experiments.tables.table_gaussianocc import TABLE as GAUSSIANOCC
from experiments.tables.table_occ3d import TABLE as OCC3D

_ITERATIONS: dict[PresetName, int] = {"toy": 40, "mini": 200, "paper": 200}


def _cut(schedule: Schedule, iterations: int) -> Schedule:
    return replace(schedule, iterations=iterations, epochs=None, checkpoint_interval=iterations)


def _short(preset: Preset, iterations: int) -> Preset:
    return replace(preset, schedule=_cut(preset.schedule, iterations), check_shuffled_images=False, short_evaluation=True)


def _own(row: str, base: str | None) -> Row:
    """A row of GaussianOcc with its own optimisation, one frame a step. Rows with poses of sensors need no first stage."""
    known = GAUSSIANOCC.row(row)
    short = {
        name: replace(_cut(known.schedules["toy" if name == "toy" else "mini"], count), batch_size=1)
        for name, count in _ITERATIONS.items()
    }
    return replace(known, title=f"GaussianOcc: {known.title}", base=base, schedules=short, note="", metrics=())


TABLE = TableSpec(
    name="table_cost",
    title="Training cost",
    dataset=OCC3D.dataset,
    columns=(
        Column("seconds_per_iteration", "time of an iteration", digits=3, higher_is_better=False, unit="s", relative=True),
        Column("train_peak_memory_mb", "peak memory", digits=0, higher_is_better=False, unit="MiB", relative=True),
        Column("parameters", "trained parameters", digits=0, higher_is_better=False, unit="", relative=True),
        *(Column(name, relative=True) for name in ("epoch_hours", "render_seconds", "frames_per_second")),
    ),
    rows=(
        *(replace(row, schedules={}, note="") for row in OCC3D.rows if row.trained and row.recipe.renderer == "gaussians"),
        _own("gaussianocc-volume-sensors", None),
        _own("gaussianocc-sensors", "gaussianocc-volume-sensors"),
    ),
    presets={name: _short(OCC3D.presets[name], iterations) for name, iterations in _ITERATIONS.items()},
    notes=(
        "Time: forward pass, backward pass and optimizer step, without reading of data; median of all iterations but the first "
        "five. Memory: the allocator's peak up to the end of training on a GPU; without one, the process's resident memory, to "
        "which earlier cells of the same command add: run each row by a command of its own. A prediction needs no GaussRender.",
        "GaussianOcc's printed times are of its own machine; how long a rendering takes here, per renderer, is the workload "
        "gaussianocc of table_renderers.",
    ),
    brief=True,
)
