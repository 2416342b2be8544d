"""The page of ``table_renderers``: every renderer on every workload, machine by machine, from the records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd

from experiments import renderer_records
from experiments.renderer_records import COMMAND, TABLE, RendererRecord
from reports import markdown
from reports.markdown import details, distinct, markdown_table
from reports.summary import ABSENT, ReportError

TITLE = "Renderers side by side: time, memory, agreement"
SWEPT = {"channels": "channels", "gaussians": "Gaussians"}
"""Workload groups that are sweeps, with what they sweep over (``scene`` has a key of the group's name)."""


def read(root: Path) -> dict[str, list[RendererRecord]]:
    """Committed records by machine (the name of their folder), sweeps in the order of what they sweep over."""
    machines: dict[str, list[RendererRecord]] = {}
    for path, record in renderer_records.load_all(root):
        machines.setdefault(path.parent.name, []).append(record)
    for name, records in machines.items():
        if len({r.device for r in records}) > 1:
            raise ReportError(f"{TABLE}/{name}: records of several devices; delete the folder and measure again (`{COMMAND}`)")
        records.sort(key=lambda r: (_order(r), r.renderer))
    return machines


def _order(record: RendererRecord) -> tuple[int, str, float]:
    """Published systems by their size of step, then sweeps."""
    if record.group in SWEPT:
        return 1, record.group, float(record.scene[record.group])
    groups: tuple[str, ...] = ("toy", "occ3d-camera", "occ3d-bev", "surroundocc-camera", "kitti360-camera")
    groups += ("gaussianocc", "gaussianflowocc", "renderocc")
    return 0, "", groups.index(record.group) + 0.5 * (record.workload != record.group) if record.group in groups else 99.0


Link = Callable[[RendererRecord], str]
"""Where a record is shown, "" where nothing shows it."""


def render(machines: dict[str, list[RendererRecord]], figures: dict[str, str], link: Link = lambda _: "") -> str:
    """The page. ``figures``: path as the page links it -> caption."""
    parts = [markdown.heading(TITLE, COMMAND)]
    if not machines:
        return "\n\n".join((*parts, f"Not measured yet: `{COMMAND}`, then `python -m reports.publish {TABLE}`."))
    for records in machines.values():
        parts += [f"## {heading(records[0])}", _times(records, link)]
        parts += [_details_of(records, link)]
    parts += [f"![{caption}]({path})" for path, caption in figures.items()]
    parts += _definitions([r for records in machines.values() for r in records])
    return "\n\n".join(part for part in parts if part)


def heading(record: RendererRecord) -> str:
    """``NVIDIA H200`` or ``AMD EPYC, 2 threads, avx2``."""
    m = record.machine
    if record.device != "cpu":
        return str(m.gpu)
    return f"{m.cpu}, {m.threads} thread{'s' * (m.threads != 1)}" + (f", {m.fma_target}" if m.fma_target else "")


def _times(records: Sequence[RendererRecord], link: Link) -> str:
    measured = [r for r in records if r.status == "measured" and r.group not in SWEPT]
    return markdown_table(_line(r, records, link(r)) for r in measured)


def _line(record: RendererRecord, records: Sequence[RendererRecord], link: str) -> dict[str, str]:
    reference = next((r for r in records if (r.workload, r.renderer) == (record.workload, "reference")), None)
    faster = ABSENT
    if reference is not None and reference.step_ms and record.step_ms and record is not reference:
        faster = f"{reference.step_ms / record.step_ms:.0f}x"
    numbers = {
        "Forward [ms]": _span(record.forward_ms, record.forward_range_ms),
        "Backward [ms]": _span(record.backward_ms, record.backward_range_ms),
        "Faster than `reference`": faster,
        "Peak memory [MiB]": _number(record.peak_mb),
        "Largest error": _number(record.max_abs_error, 2),
        "1 - gradient cosine": _number(None if record.grad_cosine is None else max(1 - record.grad_cosine, 0.0), 2),
    }
    shown = {title: markdown.linked(text, link) if text != ABSENT else text for title, text in numbers.items()}
    return {"Workload": record.workload, "Renderer": record.renderer, **shown}


def _number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return ABSENT
    return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:.0f}"


def _span(median: float | None, ends: tuple[float, float] | None) -> str:
    if median is None or ends is None:
        return ABSENT
    return f"{_number(median)} ({_number(ends[0])} to {_number(ends[1])})"


def _details_of(records: Sequence[RendererRecord], link: Link) -> str:
    """What stands folded under a machine's table."""
    swept = [r for r in records if r.status == "measured" and r.group in SWEPT]
    parts = [
        "Scenes",
        markdown_table(_scene(r) for r in _first_of_each(records) if "gaussians" in r.scene),
        markdown_table(_ray_scene(r) for r in _first_of_each(records) if "rays" in r.scene),
        "Sweeps" if swept else "",
        markdown_table(_line(r, records, link(r)) for r in swept),
        *_stages(records),
        _left_out(records),
        _conditions(records),
    ]
    return details(f"{heading(records[0])}: scenes, sweeps, stages, versions, commands", *parts)


def _first_of_each(records: Sequence[RendererRecord]) -> Iterable[RendererRecord]:
    seen: dict[str, RendererRecord] = {}
    for record in records:
        if record.scene:
            seen.setdefault(record.workload, record)
    return seen.values()


def _scene(record: RendererRecord) -> dict[str, str]:
    s = record.scene
    return {
        "Workload": record.workload,
        "What": record.title,
        "Gaussians": f"{s['gaussians']:,}",
        "drawn": f"{s['drawn']:,}",
        "(tile, Gaussian) pairs": f"{s['tile_pairs']:,}",
        "Channels": str(s["channels"]),
        "Images": str(s["images"]),
        "Labels": s["label"] or ABSENT,
    }


def _ray_scene(record: RendererRecord) -> dict[str, str]:
    s = record.scene
    return {
        "Workload": record.workload,
        "What": record.title,
        "Rays": f"{s['rays']:,}",
        "Samples": f"{s['samples']:,}",
        "Voxels": str(s["grid"]),
        "Channels": str(s["channels"]),
        "Labels": s["label"] or ABSENT,
    }


def _stages(records: Sequence[RendererRecord]) -> list[str]:
    """The `cpu` renderer's own account, of splats and of rays."""
    tables: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for r in records:
        if r.stages is None:
            continue
        rate, part = r.stages.get("blend_gflops"), r.stages.get("blend_part_of_peak")
        for way in ("forward", "backward"):
            line = {"Workload": r.workload, "Pass": way}
            line |= {f"{stage} [ms]": _number(value) for stage, value in r.stages[f"{way}_ms"].items()}
            line["blend [GFLOP/s]"] = _number(rate) if way == "forward" else ""
            line["of the peak"] = f"{100 * part:.0f} %" if part and way == "forward" else ""
            tables.setdefault(tuple(line), []).append(line)
    return ["Stages of the `cpu` renderer", *map(markdown_table, tables.values())] if tables else []


def _left_out(records: Sequence[RendererRecord]) -> str:
    """Why there is no number: one line a reason."""
    reasons: dict[str, list[str]] = {}
    for r in records:
        if r.status != "measured":
            reasons.setdefault(f"`{r.renderer}` {r.status}: {r.reason}", []).append(r.workload)
    lines = [f"- {reason} ({', '.join(workloads)})" for reason, workloads in reasons.items()]
    measured = {r.renderer for r in records}
    absent = {(name, reason) for r in records for name, reason in r.unavailable.items() if name not in measured}
    lines += [f"- `{name}` not available: {reason}" for name, reason in sorted(absent)]
    return "\n".join(lines)


def _conditions(records: Sequence[RendererRecord]) -> str:
    """Machine, versions, commit and command, each distinct one once."""

    def peaks(r: RendererRecord) -> str:
        m = r.machine
        what = f"{m.gpu or 'no GPU'}; {m.cpu}, {m.cores} cores ({' '.join(m.instruction_sets)}), {m.memory_gb:g} GB"
        if m.fma_gflops is None:
            return f"{what}; {m.note}"
        return (
            f"{what}; multiply-adds {m.fma_gflops:g} GFLOP/s ({m.fma_target}; one thread {m.fma_gflops_one_thread:g}), "
            f"memory {_number(m.bandwidth_gbs)} GB/s (STREAM triad, three arrays of 128 MiB), both measured"
        )

    def own(r: RendererRecord) -> str:
        changed = ", ".join(f"{key} {used} (asked {asked})" for key, (asked, used) in sorted(r.settings.items()))
        return f"`{r.renderer}` on {r.workload}: {changed}" if changed else ""

    lines = distinct("machine", (peaks(r) for r in records))
    lines += distinct("versions", (", ".join(f"{k} {v}" for k, v in r.versions.items()) for r in records))
    lines += distinct("commit", (f"`{r.git_commit[:12]}`{' with uncommitted changes' if r.git_dirty else ''}" for r in records))
    lines += distinct("settings that a renderer replaced by its own", (own(r) for r in records))
    lines += distinct("command", (f"`{r.command}`" for r in records))
    return "\n".join(lines)


def _definitions(records: Sequence[RendererRecord]) -> list[str]:
    lines = [
        "- time: median of the repetitions (smallest to largest), in a process of its own, after one step that is not counted"
    ]
    lines += distinct("memory", (r.memory_definition for r in records))
    lines += distinct("agreement", (r.agreement_definition for r in records))
    return ["\n".join(lines)]


def csv(machines: dict[str, list[RendererRecord]]) -> str:
    """Every number, one record a line."""
    columns = ["machine", "device", "workload", "renderer", "status"]
    columns += ["forward_ms", "forward_min", "forward_max", "backward_ms", "backward_min", "backward_max", "repeats", "peak_mb"]
    columns += ["max_abs_error", "grad_cosine", "pixels", "undecided", "gaussians", "drawn", "tile_pairs", "channels", "reason"]
    lines = []
    for machine, records in machines.items():
        for r in records:
            ends = (*(r.forward_range_ms or (None, None)), *(r.backward_range_ms or (None, None)))
            values = [machine, r.device, r.workload, r.renderer, r.status, r.forward_ms, *ends[:2], r.backward_ms, *ends[2:]]
            values += [r.repeats, r.peak_mb, r.max_abs_error, r.grad_cosine, r.pixels, r.undecided]
            values += [r.scene.get(key) for key in ("gaussians", "drawn", "tile_pairs", "channels")]
            lines.append([*(f"{v:.6g}" if isinstance(v, float) else v for v in values), r.reason])
    return pd.DataFrame(lines, columns=columns).to_csv(index=False, lineterminator="\n")
