"""What ``python -m renderers.compare`` prints: a line a measurement, and tables at the end (with rich, if it is installed)."""

from __future__ import annotations

from collections.abc import Mapping

from renderers.machine import Machine
from renderers.measure import Result
from renderers.tables import print_table

Results = Mapping[str, Mapping[str, Result]]


def number(value: float | None, digits: int = 3) -> str:
    """``digits`` significant ones; "-" for None."""
    if value is None:
        return "-"
    return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:.0f}"


def span(median: float | None, ends: tuple[float, float] | None) -> str:
    """``12.3 (12.1-13)``: median, smallest and largest."""
    return number(median) if ends is None else f"{number(median)} ({number(ends[0])}-{number(ends[1])})"


def result_line(workload: str, renderer: str, result: Result) -> str:
    """One measurement as it finishes."""
    if result.status != "measured":
        return f"{workload}, {renderer}: {result.status}: {result.reason}"
    return (
        f"{workload}, {renderer}: forward {number(result.forward_ms)} ms, backward {number(result.backward_ms)} ms, "
        f"{number(result.peak_mb)} MiB, error {number(result.max_abs_error, 2)}, "
        f"1 - cosine {number(None if result.grad_cosine is None else max(1 - result.grad_cosine, 0.0), 2)}"
    )


def speed_up(found: Mapping[str, Result], renderer: str) -> float | None:
    """How many times faster than the reference in the same run, forward and backward together."""

    def whole(name: str) -> float | None:
        r = found.get(name)
        return None if r is None or r.forward_ms is None or r.backward_ms is None else r.forward_ms + r.backward_ms

    reference, own = whole("reference"), whole(renderer)
    return reference / own if reference and own and renderer != "reference" else None


def print_summary(machine: Machine, results: Results, memory: str, agreement: str) -> None:
    """Every number of a comparison."""
    headings = ("workload", "renderer", "forward ms", "backward ms", "peak MiB", "max error", "1 - cosine", "x reference")
    rows: list[tuple[str, ...]] = []
    reasons: dict[str, list[str]] = {}
    for workload, found in results.items():
        for renderer, r in found.items():
            if r.status != "measured":
                reasons.setdefault(f"{renderer} {r.status}: {r.reason}", []).append(workload)
                continue
            times = (span(r.forward_ms, r.forward_range_ms), span(r.backward_ms, r.backward_range_ms))
            loss = None if r.grad_cosine is None else max(1 - r.grad_cosine, 0.0)
            quality = (number(r.peak_mb), number(r.max_abs_error, 2), number(loss, 2), number(speed_up(found, renderer)))
            rows.append((workload, renderer, *times, *quality))
    if rows:
        print_table("renderers: median (smallest-largest)", headings, rows, 2, lambda column: column > 1)
    _print_stages(results)
    for reason, workloads in reasons.items():
        print(f"{reason} ({', '.join(workloads)})")
    peaks = f"multiply-add peak {number(machine.fma_gflops)} GFLOP/s, triad {number(machine.bandwidth_gbs)} GB/s"
    what = f"{machine.gpu or 'no GPU'}; {machine.cpu}, {machine.cores} cores, {machine.memory_gb:g} GB"
    print(f"machine: {what}; {machine.note or peaks}")
    print(f"memory: {memory}\nagreement: {agreement}")


def _print_stages(results: Results) -> None:
    """Where the "cpu" renderer spends its time, and its rate against the machine's peak."""
    tables: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for workload, found in results.items():
        for r in found.values():
            if r.stages is None:
                continue
            reads = "read_gbs" in r.stages
            for way in ("forward", "backward"):
                stages: Mapping[str, float] = r.stages[f"{way}_ms"]
                rates = [number(r.stages.get("blend_gflops")), _percent(r.stages.get("blend_part_of_peak"))]
                rates += [number(r.stages["read_gbs"]), _percent(r.stages.get("read_part_of_bandwidth"))] if reads else []
                rates = rates if way == "forward" else [""] * len(rates)
                headings = ("workload", "pass", *stages, "blend GFLOP/s", "of the peak")
                headings += ("voxels GB/s", "of the memory's") if reads else ()
                tables.setdefault(headings, []).append((workload, way, *map(number, stages.values()), *rates))
    for headings, rows in tables.items():
        print_table("cpu renderer: ms by stage", headings, rows, 2, lambda column: column > 1)


def _percent(part: float | None) -> str:
    return "-" if part is None else f"{100 * part:.0f} %"
