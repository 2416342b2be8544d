"""Time, memory and accuracy of the triton renderer's precisions on a GPU: ``python -m renderers.triton.precisions occ3d-camera``.

``renderers.compare`` measures the default one, beside other renderers. Exit codes: 0, 1 if the renderer is not available,
2 for an unknown workload.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from camera_occupancy_bench.commandline import Parser, finish
from renderers import registry
from renderers.measure import Result, measure
from renderers.summary import result_line
from renderers.triton import Precision, TritonRenderer
from renderers.workloads import Source, UnknownWorkload, Workload, select


class Tf32x3Renderer(TritonRenderer):
    """The renderer with three tensor-core products for one."""

    def __init__(self) -> None:
        super().__init__("tf32x3")


class Tf32Renderer(TritonRenderer):
    """The renderer with factors rounded to tf32."""

    def __init__(self) -> None:
        super().__init__("tf32")


BACKENDS: dict[Precision, str] = {
    "ieee": registry.BACKENDS["triton"],
    "tf32x3": "renderers.triton.precisions:Tf32x3Renderer",
    "tf32": "renderers.triton.precisions:Tf32Renderer",
}


def measured(
    workloads: list[Workload], source: Source, device: str, repeat: int | None = None
) -> Iterator[tuple[str, str, Result]]:
    """Workload, precision, and what ``renderers.measure`` says of it."""
    registry.BACKENDS.update({f"triton {precision}": target for precision, target in BACKENDS.items()})  # of this process
    for workload in workloads:
        for precision in BACKENDS:
            yield workload.name, precision, measure(f"triton {precision}", workload, source, device, repeat)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the process's exit code."""
    parser = Parser("python -m renderers.triton.precisions", "Time, memory and accuracy of the triton renderer's precisions.")
    parser.add_argument("workload", nargs="+", help="As of renderers.compare.")
    try:
        selected = select(parser.parse_args(argv).workload)
        for workload in selected:
            registry.load("triton", workload.kind)
        registry.get("triton")
    except (UnknownWorkload, registry.UnknownRenderer, registry.RendererUnavailable) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, registry.RendererUnavailable) else 2
    workloads = [workload for workload in selected if isinstance(workload, Workload)]
    for name, precision, result in measured(workloads, Source(), "cuda"):
        print(result_line(name, precision, result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(finish(main))
