"""Records of ``table_renderers``: what ``python -m renderers.compare --save`` leaves, one file a workload, backend and machine.

    results/local/table_renderers/<machine>/<workload>--<renderer>.json

The writer knows nothing of this module (``renderers`` imports nothing of ours), so a file is checked when it is read. Light: no
torch, no mm stack.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from experiments.records import RecordError, Strict, load_as

TABLE = "table_renderers"
COMMAND = "python -m renderers.compare --save"


class Machine(Strict):
    """See ``renderers.machine.Machine``."""

    cpu: str
    cores: int
    threads: int
    memory_gb: float
    instruction_sets: tuple[str, ...]
    gpu: str | None
    fma_target: str | None
    fma_gflops: float | None
    fma_gflops_one_thread: float | None
    bandwidth_gbs: float | None
    note: str = ""


class RendererRecord(Strict):
    """One backend on one workload; see ``renderers.measure.Result`` for the numbers.

    unavailable  renderers that the same run found not to be available: name -> reason
    """

    schema_version: Literal[1] = 1
    table: Literal["table_renderers"]
    workload: str
    group: str
    title: str
    renderer: str
    status: Literal["measured", "not run", "failed"]
    reason: str = ""
    forward_ms: float | None = None
    forward_range_ms: tuple[float, float] | None = None
    backward_ms: float | None = None
    backward_range_ms: tuple[float, float] | None = None
    repeats: int = 0
    peak_mb: float | None = None
    max_abs_error: float | None = None
    grad_cosine: float | None = None
    errors: dict[str, float] = Field(default_factory=dict)
    cosines: dict[str, float] = Field(default_factory=dict)
    pixels: int = 0
    undecided: float | None = None
    settings: dict[str, list[Any]] = Field(default_factory=dict)
    scene: dict[str, Any] = Field(default_factory=dict)
    stages: dict[str, Any] | None = None
    command: str
    device: str
    machine: Machine
    memory_definition: str
    agreement_definition: str
    versions: dict[str, str]
    git_commit: str
    git_dirty: bool
    started: str
    unavailable: dict[str, str] = Field(default_factory=dict)

    @property
    def step_ms(self) -> float | None:
        """Forward and backward together."""
        return None if self.forward_ms is None or self.backward_ms is None else self.forward_ms + self.backward_ms


def load_all(root: Path) -> Iterator[tuple[Path, RendererRecord]]:
    """All records below ``root`` in path order; raises RecordError for a file that is damaged or lies under a wrong name."""
    for path in sorted((root / TABLE).glob("*/*.json")):
        record = load_as(RendererRecord, path, f"measure again (`{COMMAND}`)")
        if path.name != f"{record.workload}--{record.renderer}.json":
            raise RecordError(f"{path} holds {record.workload}--{record.renderer}; delete it and measure again (`{COMMAND}`)")
        yield path, record
