"""From a folder of predictions to scores: which file is of which frame, what is wrong with them, what was scored before."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from baselines.interface import OccupancyGrid
from experiments.datasets.frames import OccupancyFrames
from experiments.datasets.layouts import layout_of
from experiments.datasets.verification import Notes
from experiments.metrics.counts import Counts, total
from experiments.score_records import FOLDER
from experiments.scoring import formats
from experiments.scoring.frames import Outcome, ScoredFrames, outcomes
from experiments.scoring.protocols import Numbers, numbers

VERSION = 1
"""Of what is counted of a frame; raise it with every change to that."""

_FEW = 32  # frames that one process scores sooner than others have started
NAMED = 5  # of one kind that are named before only their number is given


class ScoreError(ValueError):
    """Predictions that cannot be scored; the message names what is wrong with how many of them, and the way out."""


@dataclass(frozen=True)
class Score:
    """Predictions of a split, scored. For the fields see ``ScoreRecord``.

    sums     its counts
    earlier  how many frames had been scored by an earlier call
    path     where the record belongs
    """

    dataset: str
    split: str
    format: str
    source: str
    grid: OccupancyGrid
    sums: Counts
    numbers: Numbers
    frames: int
    of: int
    subset: str
    predictions_fingerprint: str
    labels_fingerprint: str
    remarks: tuple[str, ...]
    earlier: int
    path: Path


def score(
    predictions: str | Path,
    dataset: str,
    data_root: str | Path,
    results: Path,
    *,
    split: str | None = None,
    subset: Path | None = None,
    workers: int | None = 1,
    begin: Callable[[int, int], None] = lambda total, earlier: None,
    done: Callable[[], None] = lambda: None,
) -> Score:
    """Score every frame of a split of a data set by the files of a folder, whatever system wrote them (``formats``).

    predictions  the folder
    split        by default the one on which numbers are published
    subset       a file that names the frames to be scored, one a line, instead of all
    results      folder of results: below its ``scores`` counts are kept frame by frame, so that a later call goes on
    workers      processes that count, None: one a core where there are many frames; the numbers do not depend on it. With more
                 than one, a script has to be a module that can be imported (``if __name__ == "__main__":``)
    begin, done  told how many frames there are and how many were scored before, and of each frame that was scored

    Raises ScoreError for frames that are missing or doubled, files of unknown frames, and, behind all others, frames whose file
    cannot be scored; what could be scored is kept. DataError for a data set that cannot be listed.
    """
    folder, root = Path(predictions), Path(data_root)
    split = split or layout_of(dataset).evaluated
    paths = _listed(folder)
    kind, coarsen = _kind(paths, layout_of(dataset).grid(), dataset)
    frames = ScoredFrames(dataset, root, split, {}, kind, coarsen)
    numbered, source, remarks = _matched(paths, frames.frames, kind, folder, subset)
    frames.files = numbered
    notes = _notes(folder, frames, results)
    known = {number: _noted(notes, number, frames.frames.grid) for number in numbered}
    todo = [number for number, outcome in known.items() if outcome is None]
    begin(len(numbered), len(numbered) - len(todo))
    problems: list[tuple[str, str]] = []
    try:
        for outcome in outcomes(frames, todo, workers or (len(os.sched_getaffinity(0)) if len(todo) > _FEW else 1)):
            if outcome.problem:
                problems.append((outcome.kind, outcome.problem))
            else:
                known[outcome.number] = outcome
                notes.add(outcome.number, _note(outcome))
            done()
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ScoreError(
            "a process that scored was ended from outside, for want of memory perhaps: the same command with fewer --workers "
            "goes on where it was"
        ) from error
    if problems:
        raise ScoreError(
            f"{folder}: {described(problems)}; {len(numbered) - len(problems)} of {len(numbered)} frames are scored and kept: "
            "mend these, and the same command goes on, or name the frames that count with --subset FILE"
        )
    scored = [outcome for outcome in known.values() if outcome is not None]
    sums, _ = total(outcome.counts for outcome in scored)
    chosen = "" if subset is None else subset.name
    if len(scored) < len(frames.frames):
        remarks.append(
            f"{len(scored)} of the {len(frames.frames)} frames of {split}, those that {chosen} names: not the split's numbers"
        )
    return Score(
        dataset=dataset,
        split=split,
        format=kind,
        source=source,
        grid=frames.frames.grid,
        sums=sums,
        numbers=numbers(sums, frames.frames.grid, frames.frames.own_mask),
        frames=len(scored),
        of=len(frames.frames),
        subset=chosen,
        predictions_fingerprint=_digest(outcome.prediction for outcome in scored),
        labels_fingerprint=_digest(outcome.truth for outcome in scored),
        remarks=(*remarks, *_looks(scored, frames.frames)),
        earlier=len(numbered) - len(todo),
        path=notes.path.with_suffix(".json") if subset is None else _of_subset(notes.path, numbered),
    )


def described(problems: Iterable[tuple[str, str]]) -> str:
    """Pairs of a kind and an example in words: how many there are of each kind, and the first ones."""
    kinds: dict[str, list[str]] = {}
    for kind, example in problems:
        kinds.setdefault(kind, []).append(example)
    said = []
    for kind, examples in kinds.items():
        more = f" and {len(examples) - NAMED} more" if len(examples) > NAMED else ""
        said.append(f"{len(examples)} {kind}: {', '.join(examples[:NAMED])}{more}")
    return "; ".join(said)


def _listed(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ScoreError(f"{folder} is not a folder: name the one that holds the files with predictions")
    paths = formats.files_in(folder)
    if not paths:
        raise ScoreError(
            f"{folder} holds no predictions: no file in it, or up to three folders below, ends in .npz, .npy or .pkl"
        )
    return paths


def _kind(paths: Sequence[Path], grid: OccupancyGrid, dataset: str) -> tuple[str, int]:
    """The format of the first file that has one, and by what its voxels are larger than the official ones."""
    problems: list[tuple[str, str]] = []
    for path in paths:
        try:
            content = formats.read(path, grid)
        except formats.BadPrediction as error:
            problems.append((error.kind, f"{path.parent.name}/{path.name} ({error})"))
            continue
        if content.ours is None:
            return content.format, 1
        own = content.ours.grid
        factor = round(own.voxel_size / grid.voxel_size)
        if own.dataset != dataset or factor < 1 or any(n % factor for n in grid.shape) or grid.coarsened(factor) != own:
            raise ScoreError(
                f"{path} has a grid of {own.dataset}, {list(own.shape)} voxels of {own.voxel_size:g} m, which is none of "
                f"{dataset} ({list(grid.shape)}, {grid.voxel_size:g} m): name its data set with --dataset"
            )
        return content.format, factor
    raise ScoreError(f"no file can be scored: {described(problems)}")


def _matched(
    paths: Sequence[Path], frames: OccupancyFrames[Any], kind: str, folder: Path, subset: Path | None
) -> tuple[dict[int, Path], str, list[str]]:
    """The file of each frame that is to be scored, in the order of the split; what made them; remarks."""
    called: dict[str, int] = {}
    shared: set[str] = set()
    for number in range(len(frames)):
        for name in dict.fromkeys(frames.names(number)):
            if called.setdefault(name, number) != number:
                shared.add(name)
    called = {name: number for name, number in called.items() if name not in shared}
    problems: list[tuple[str, str]] = []
    found: dict[int, Path] = {}
    sources: Counter[str] = Counter()
    for path in paths:
        try:
            names = formats.names_of(path)
            if kind == formats.OURS:
                token, source = formats.token_of_ours(path)
                names = (token,)
                sources[source] += 1
        except formats.BadPrediction as error:
            problems.append((error.kind, f"{path.parent.name}/{path.name} ({error})"))
            continue
        numbered = [called[name] for name in names if name in called]
        if not numbered:
            what = f" ({names[0]})" if kind == formats.OURS else ""
            problems.append((f"of no frame of {frames.split}", f"{path.relative_to(folder)}{what}"))
        elif numbered[0] in found:
            both = f"{found[numbered[0]].relative_to(folder)} and {path.relative_to(folder)}"
            problems.append(("doubled", f"{frames.names(numbered[0])[0]} ({both})"))
        else:
            found[numbered[0]] = path
    if len(sources) > 1:
        problems += [("made by different cells", source) for source in sources]
    wanted = range(len(frames)) if subset is None else _chosen(subset, called, frames)
    problems += [("missing", frames.names(number)[0]) for number in wanted if number not in found]
    if problems:
        raise ScoreError(
            f"{folder}, of which all {len(wanted)} frames {f'that {subset} names' if subset else f'of {frames.split}'} are to be "
            f"scored, {kind}: {described(problems)}; nothing was scored: mend these"
            + ("" if subset else ", or name the frames that count with --subset FILE")
        )
    remarks = []
    if others := len(found) - len(wanted):
        remarks.append(f"{others} files of other frames are left out")
    return {number: found[number] for number in wanted}, next(iter(sources), ""), remarks


def _chosen(subset: Path, called: dict[str, int], frames: OccupancyFrames[Any]) -> list[int]:
    """The frames that a file names, in the order of the split."""
    try:
        words = [line.strip() for line in subset.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ScoreError(f"--subset {subset} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not words:
        raise ScoreError(f"--subset {subset} names no frame: write one token a line")
    problems = [(f"no frame of {frames.split}", word[:80]) for word in words if word not in called]
    chosen = Counter(called[word] for word in words if word in called)
    problems += [("doubled", frames.names(number)[0]) for number, times in chosen.items() if times > 1]
    if problems:
        raise ScoreError(f"--subset {subset}: {described(problems)}")
    return sorted(chosen)


def _notes(folder: Path, frames: ScoredFrames, results: Path) -> Notes:
    place = folder.resolve()
    names = list(layout_of(frames.dataset).frame_files(frames.data_root, frames.split))
    files = [[label, *([frames.files[number]] if number in frames.files else [])] for number, (label, *_) in enumerate(names)]
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", place.name)[:40] or "predictions"
    of = f"{place} {frames.format} {frames.coarsen} {VERSION}"
    return Notes(
        results / FOLDER / frames.dataset / frames.split, frames.dataset, frames.data_root, frames.split, files, of, name
    )


def _note(outcome: Outcome) -> dict[str, Any]:
    counts = {name: value.tolist() for name, value in outcome.counts.items()}
    return {"prediction": outcome.prediction, "truth": outcome.truth, "mostly": outcome.mostly, "counts": counts}


def _noted(notes: Notes, number: int, grid: OccupancyGrid) -> Outcome | None:
    """What an earlier call found of a frame; None if its files changed since, or there is nothing whole."""
    try:
        if not notes.known(number):
            return None
        noted = notes.found(number)
        counts = {str(name): np.array(value, dtype=np.int64) for name, value in noted["counts"].items()}
        outcome = Outcome(number, counts, str(noted["prediction"]), str(noted["truth"]), int(noted["mostly"]))
    except (OSError, ValueError, TypeError, KeyError, OverflowError, AttributeError):
        return None
    rows = {name: 5 if name == "rays" else grid.num_classes for name in counts}
    return outcome if all(value.shape == (rows[name], grid.num_classes) for name, value in counts.items()) else None


def _of_subset(path: Path, chosen: Iterable[int]) -> Path:
    return path.with_name(f"{path.stem}--subset-{_digest(map(str, chosen))[:8]}.json")


def _digest(words: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:32]


def _looks(scored: Sequence[Outcome], frames: OccupancyFrames[Any]) -> list[str]:
    """What is odd about the predictions, or about what they are held against."""
    grid, said = frames.grid, []
    odd = Counter(outcome.mostly for outcome in scored if outcome.mostly != grid.empty)
    if 2 * sum(odd.values()) > len(scored):
        most = odd.most_common(1)[0][0]
        said.append(
            f"in {sum(odd.values())} of {len(scored)} frames most voxels are predicted to be {grid.class_names[most]} ({most}), "
            f"not {grid.class_names[grid.empty]} ({grid.empty}): these may be the class ids of another data set"
        )
    if frames.coarsen > 1:
        said.append(
            f"voxels of {grid.voxel_size:g} m, the data set's have {frames.official_grid.voxel_size:g} m: comparable with no "
            "published number"
        )
    return said
