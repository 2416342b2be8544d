"""What of a data set is there, whether it can be read, and what has to be made of it:
``python -m experiments.data status|verify|prepare <name|all> --data-root FOLDER``.

Exit codes: 0 complete, verified, or prepared; 1 something is missing or damaged; 2 the command asks for something
impossible; 130 interrupted. Nothing is downloaded, and only ``prepare`` writes below the data root.
"""

from __future__ import annotations

from camera_occupancy_bench.commandline import READING, finish, require

require(__name__, READING)

import os
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.command import complain, guarded, told_on_interruption
from experiments.datasets.inventory import Inventory, Part, inventory
from experiments.datasets.layout_pseudo_labels import PREPARATIONS
from experiments.datasets.layouts import layout_of
from experiments.datasets.prepare_pseudo import Options, announcement
from experiments.datasets.registry import DATASETS
from experiments.datasets.unpickle import DataError, refusing
from experiments.plan import DATA_ROOT_VARIABLE
from experiments.shell import runnable
from renderers.registry import suggestion

NAMED = 20  # problems of one kind that are named before only their number is given


def _named(name: str) -> list[tuple[str, list[str]]]:
    """Data sets with what is to be prepared of each, for a preparation, a data set or all; DataError with a suggestion."""
    made = {dataset: list(layout_of(dataset).preparations) for dataset in DATASETS.names()}
    unasked = {
        dataset: [one for one in names if not layout_of(dataset).preparations[one].by_name] for dataset, names in made.items()
    }
    if name == "all":
        return list(unasked.items())
    if name in made and name not in made[name]:
        return [(name, unasked[name])]
    if found := [(dataset, [name]) for dataset, names in made.items() if name in names]:
        return found
    raise DataError(suggestion("preparation", name, ["all", *dict.fromkeys(chain.from_iterable(made.values())), *made]))


app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="What of a data set is there, whether it can be read, and what has to be made of it. "
    "Exit code: 0 complete, 1 missing or damaged.",
)

_Name = Annotated[str, typer.Argument(metavar="NAME", help=f"Data set: {', '.join(DATASETS.names())} or all.")]
_Root = Annotated[Path | None, typer.Option(help=f"Folder that holds the data. Default: {DATA_ROOT_VARIABLE}.")]


@app.command()
def status(name: _Name, data_root: _Root = None) -> int:
    """Show what of each split is there, what is missing, and which download brings it."""
    root = _root(data_root)
    console = Console(highlight=False)
    table = Table()
    datasets = _datasets(name)
    optional_parts = list(dict.fromkeys(part for dataset in datasets for part in layout_of(dataset).part_files))
    for heading in ("data set", "split", "frames listed", "labels", "images", *optional_parts):
        table.add_column(heading)
    wrong: dict[tuple[str, str], list[str]] = {}  # by where it comes from, so that this is said once
    optional: dict[tuple[str, str], list[str]] = {}
    releases: list[str] = []
    takers: list[str] = []
    for dataset in datasets:
        for split in layout_of(dataset).splits:
            try:
                with console.status(f"looking at {dataset} {split}"):
                    found = inventory(dataset, root, split)
            except (DataError, OSError) as error:
                wrong.setdefault((dataset, "nothing else was looked at"), []).append(f"{split}: {error}")
                continue
            releases += _release(dataset, split, found)
            optionals = [_count(found.optional[part]) if part in found.optional else "" for part in optional_parts]
            table.add_row(dataset, split, *(_count(part) for part in found.parts), *optionals)
            for part in found.parts:
                if part.problem:
                    wrong.setdefault((dataset, part.source), []).append(f"{split}, {part.name}: {part.problem}")
            for part in found.optional.values():
                if part.problem:
                    takers.append(layout_of(dataset).part_files[part.name].takers)
                    optional.setdefault((dataset, part.source), []).append(f"{split}, {part.name}: {part.problem}")
    console.print(table)
    for line in releases:
        _say(console, line)
    for (dataset, source), lines in (*wrong.items(), *optional.items()):
        for line in lines:
            _say(console, f"{dataset} {line}")
        _say(console, f"  {source}")
    for line in dict.fromkeys(takers):
        _say(console, line)
    return 1 if wrong else 0


@app.command()
def prepare(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="What is made: kitti360, renderocc; gaussianocc, gaussianocc-toy, pseudo-semantics, pseudo-depth, pseudo-toy, "
            "which are made only if they are named; all else that is made of a data set; or all.",
        ),
    ],
    data_root: _Root = None,
    again: Annotated[bool, typer.Option("--again", help="Also make anew what is there.")] = False,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Of pseudo labels: folder of weights, with grounding-dino and sam in it, or with the model of depth; with "
            "--metric3d a file. By default from the hub."
        ),
    ] = None,
    metric3d: Annotated[
        Path | None, typer.Option(help="Of pseudo-depth: a copy of github.com/YvanYin/Metric3D, whose model is taken.")
    ] = None,
    scenes: Annotated[str, typer.Option(help="Of pseudo labels: A:B or names with commas between; by default all.")] = "",
    shard: Annotated[str, typer.Option(help="Of pseudo labels: I/N, the I-th of N processes at once.")] = "1/1",
    compact: Annotated[bool, typer.Option("--compact", help="Of pseudo labels: smaller files with the same content.")] = False,
    device: Annotated[str, typer.Option(help="Of pseudo labels: torch's device; by default a GPU if there is one.")] = "",
) -> int:
    """Make the files that are not downloaded: KITTI-360's labels; for renderocc, the lidar points in nuScenes' images that models
    like RenderOcc learn from; for models like GaussianFlowOcc, pseudo labels of the images by Grounded SAM and a model of metric
    depth, and pseudo-toy those of the generated world; for gaussianocc, the list of nuScenes' camera frames between key frames,
    and depth maps of what is evaluated (5.8 MB an image of nuScenes, 9.4 MB of DDAD), and gaussianocc-toy all that of the
    generated world. What is there already is not made again without --again."""
    root = _root(data_root)
    console = Console(highlight=False)
    options = Options(weights, metric3d, scenes, shard, compact, device, again)
    if replace(options, again=False) != Options() and name not in PREPARATIONS:
        given = [f.name for f in fields(Options) if f.name != "again" and getattr(options, f.name) != getattr(Options(), f.name)]
        raise DataError(f"--{given[0]} is of prepare {' and '.join(PREPARATIONS)} alone, not of {name}")
    failed = 0
    with told_on_interruption("interrupted; files written so far are complete, the same command goes on from there"):
        named = _named(name)
        there = [dataset for dataset, _ in named if _is_there(dataset, root)]
        for dataset, made in named:
            if dataset not in there and (name == "all" or there):
                _say(console, f"{dataset}: not below {root}")
                continue
            for one in made:
                failed += _prepare(dataset, one, root, console, options)
            if not made:
                by_name = ", ".join(layout_of(dataset).preparations)
                told = f"but if it is named: prepare {by_name}" if by_name else "it is read as it is published"
                _say(console, f"{dataset}: nothing to prepare, {told}")
    return 1 if failed else 0


def _is_there(dataset: str, root: Path) -> bool:
    known = layout_of(dataset)
    return any(known.index(root, split).exists() for split in known.splits)


def _prepare(dataset: str, name: str, root: Path, console: Console, options: Options) -> int:
    """Number of frames that cannot be prepared, and of splits that are not there."""
    known = layout_of(dataset)
    preparation = known.preparations[name]
    steps_of = DATASETS.part(preparation.steps)
    failed = 0
    for split in preparation.splits or known.splits:
        title = f"{name} {split}"
        try:
            with console.status(f"{title}: looking for {preparation.what}"), refusing(title, "copy or download it again"):
                steps = steps_of(root, split, options) if preparation.options else steps_of(root, split)
            todo = sum(options.again or not done for done, _ in steps)
            if preparation.options and todo:
                _say(console, f"{title}: {announcement(name, root, todo, options)}")
        except DataError as error:
            _say(console, f"{title}: {error}")
            failed += 1
            continue
        failed += _make(console, title, preparation.what, steps, options.again)
        for part in inventory(dataset, root, split).optional.values():
            if part.problem and known.part_files[part.name].made in ("", name):
                takers = known.part_files[part.name].takers
                _say(console, f"{title}, {part.name}: {part.problem}: {part.source}. {takers}")
    return failed


def _make(console: Console, title: str, what: str, steps: Sequence[tuple[bool, Callable[[], Any]]], again: bool) -> int:
    """Take the steps that were not taken before, or all ``again``; returns how many failed."""
    from experiments.bars import Bar

    todo = [step for done, step in steps if again or not done]
    failed = 0
    bar = Bar(console, f"{title} {what}", len(steps), len(steps) - len(todo))
    try:
        for step in todo:
            try:
                with refusing(f"a file for {title}", "copy or download it again"):
                    step()
            except DataError as error:
                failed += 1
                if failed <= NAMED:
                    _say(console, f"  {error}")
            bar.advance(f"{failed} failed")
    finally:
        bar.close()
    if failed > NAMED:
        _say(console, f"  and {failed - NAMED} more")
    there = len(steps) - len(todo)
    _say(console, f"{title}: {len(todo) - failed} {what} made, {there} were there, {failed} cannot be made")
    return failed


@app.command()
def verify(
    name: _Name,
    data_root: _Root = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames of each split to read completely, drawn by --seed.")] = 100,
    all_: Annotated[bool, typer.Option("--all", help="Read every frame.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of frames.")] = 0,
) -> int:
    """Check counts and names of all files, and read a sample of frames completely; good frames are not read again."""
    root = _root(data_root)
    console = Console(highlight=False)
    problems = 0
    with told_on_interruption("interrupted; frames that were read are noted, the same command goes on from there"):
        for dataset in _datasets(name):
            for split in layout_of(dataset).splits:
                try:
                    problems += _verify_split(dataset, root, split, None if all_ else frames, seed, console)
                except (DataError, OSError) as error:  # the other splits and data sets are looked at all the same
                    _say(console, f"{dataset} {split}: {error}")
                    problems += 1
    if problems:
        complain(f"{problems} problem(s) found in {root}; once they are mended, the same command reads only what changed")
    return 1 if problems else 0


def _verify_split(dataset: str, root: Path, split: str, count: int | None, seed: int, console: Console) -> int:
    """Number of problems of a split, each named up to ``NAMED`` of a kind."""
    title = f"{dataset} {split}"
    with console.status(f"{title}: looking for files"):
        found = inventory(dataset, root, split)
    index, *rest = found.parts
    if index.problem:
        _say(console, f"{title}: {index.problem}: {index.source}")
    for line in _release(dataset, split, found):
        _say(console, line)
    if not found.frames:
        return 1
    for part in rest:
        if part.problem:
            _say(console, f"{title}: {part.problem} ({part.name}): {part.source}")
            _name(console, [str(path) for path in part.missing])
    with console.status("loading the libraries"):
        from experiments.bars import Bar
        from experiments.datasets.verification import FrameChecks, Notes, check_frames
        from experiments.toyworld import default_cache

        checks = FrameChecks(dataset, root, split)
        optional = [[path for own in found.files.values() for path in own[number]] for number in range(len(found.frames))]
        optional = [[path for path in files if path.is_file()] for files in optional]
        raw = layout_of(dataset).raw_files
        sources = [[path for path in own if path.is_file()] for own in raw(root, split)] if raw else [[] for _ in found.frames]
        files = [[*own, *more, *source] for own, more, source in zip(found.frames, optional, sources, strict=True)]
        notes = Notes(default_cache() / "verified", dataset, root, split, files)
    everything = range(len(checks))
    drawn = everything if count is None else sorted(random.Random(seed).sample(everything, min(count, len(checks))))
    absent = {path for part in rest for path in part.missing}
    whole = [number for number in drawn if not absent.intersection(found.frames[number])]
    todo = [number for number in whole if not notes.known(number)]
    damaged: list[str] = []
    bar = Bar(console, f"{title} read", len(whole), len(whole) - len(todo))
    try:
        for number, problem in check_frames(checks, todo):
            if problem:
                damaged.append(problem)
                if len(damaged) <= NAMED:
                    _say(console, f"  {problem}")
            else:
                notes.add(number)
            bar.advance(f"{len(damaged)} damaged")
    finally:
        bar.close()
    if len(damaged) > NAMED:
        _say(console, f"  and {len(damaged) - NAMED} more")
    _say(
        console,
        f"{title}: {len(whole) - len(damaged)} of {len(drawn)} frames read completely and good"
        f" ({len(whole) - len(todo)} of them earlier), {len(damaged)} damaged, {len(drawn) - len(whole)} not complete;"
        f" {len(checks)} listed; noted in {notes.path}",
    )
    return bool(index.problem) + len(absent) + len(damaged)


def _datasets(name: str) -> list[str]:
    if name == "all":
        return DATASETS.names()
    layout_of(name)  # or DataError
    return [name]


def _root(named: Path | None) -> Path:
    configured = os.environ.get(DATA_ROOT_VARIABLE)
    root = named or (Path(configured) if configured else None)
    if root is None:
        raise DataError(f"no data root: name the folder that holds the data with --data-root or {DATA_ROOT_VARIABLE}")
    if not root.is_dir():
        raise DataError(f"data root {root} is not a folder: name the one that holds the data with --data-root")
    return root


def _release(dataset: str, split: str, found: Inventory) -> list[str]:
    """Which of a data set's releases a split is of; nothing where they do not differ in it, and for a split of none."""
    index = found.parts[0]
    return [f"{dataset} {split}: {index.there} frames, those of {index.release}"] if index.release else []


def _count(part: Part) -> str:
    if not part.expected:
        return "unknown" if part.expected is None else "none"
    return f"{part.there} of {part.expected}"


def _name(console: Console, items: list[str]) -> None:
    for item in items[:NAMED]:
        _say(console, f"  {item}")
    if len(items) > NAMED:
        _say(console, f"  and {len(items) - NAMED} more")


def _say(console: Console, line: str) -> None:
    console.print(escape(runnable(line)), soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    return guarded(app, words, "python -m experiments.data", "interrupted; nothing was changed")


if __name__ == "__main__":
    sys.exit(finish(main))
