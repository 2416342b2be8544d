"""A procedural driving world as a data set in an official layout; see ``writer.py`` and ``kitti360.py`` for the files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from camera_occupancy_bench import files

from .config import Layout, ToyWorldConfig

__all__ = ["DrivingWorld", "ToyWorldConfig", "Written", "ensure", "ensure_at", "fingerprint", "summary"]

# Raise it with every change to what is written in all layouts. 4: under the instructions that the commands hold to.
GENERATOR_VERSION = 4
_LAYOUT_VERSIONS = {
    "surroundocc": 1,
    "kitti360": 1,
    "ddad": 1,
}  # and these with changes to one; Occ3D's is the generator's
_SUMMARY = "toyworld.json"


def fingerprint(config: ToyWorldConfig) -> str:
    """Name of the data set that a configuration and this version of the generator give."""
    content = {"generator": GENERATOR_VERSION, **asdict(config)}
    if config.layout == "occ3d":
        del content["layout"]  # it was the only one when the first records were made
    else:
        content["layout_version"] = _LAYOUT_VERSIONS[config.layout]
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def default_cache() -> Path:
    """``$OCC_CACHE``, else ``~/.cache/camera-occupancy-bench``."""
    named = os.environ.get("OCC_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "camera-occupancy-bench"


def ensure(config: ToyWorldConfig, cache_root: Path | None = None) -> Path:
    """The data root of a toy world, generated first if the cache does not hold it.

    Safe to call from several processes at once; a generation that was killed leaves nothing that a later call takes
    for a data set. Raises ValueError for a configuration out of range, OSError if the cache cannot be written.
    """
    return ensure_at(config, (cache_root or default_cache()) / "toyworld" / fingerprint(config))


def ensure_at(config: ToyWorldConfig, root: Path) -> Path:
    """Like ``ensure``, in a folder of the caller's choice; ValueError if that folder holds something else."""
    return _ensure(root, fingerprint(config), lambda building: _build(config, building))


def _ensure(root: Path, name: str, build: Callable[[Path], None]) -> Path:
    """``root``, with what ``build`` writes into a new folder unless it holds the data set with the fingerprint ``name``."""
    from filelock import FileLock

    root = Path(os.path.realpath(root.expanduser()))
    if _holds(root, name):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.with_name(f".{root.name}.lock")):
        if _holds(root, name):
            return root
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise ValueError(f"{root} already holds something else than this toy world: name an empty or new folder")
        building = root.with_name(f".{root.name}.building")
        if building.exists():  # left by a generation that was killed: the lock says nobody is at work on it
            shutil.rmtree(building)
        building.mkdir()
        build(building)
        if root.exists():
            root.rmdir()
        building.rename(root)
    return root


@dataclass(frozen=True)
class DrivingWorld:
    """The driving world in one layout; ``fields`` are those of ToyWorldConfig that differ (``DataPreset.toyworld``)."""

    layout: Layout

    def fingerprint(self, fields: Mapping[str, Any]) -> str:
        """Name of the data set that the fields and this version of the generator give."""
        return fingerprint(self._config(fields))

    def ensure(self, fields: Mapping[str, Any]) -> Path:
        """Its data root, see ``ensure``."""
        return ensure(self._config(fields))

    def _config(self, fields: Mapping[str, Any]) -> ToyWorldConfig:
        return ToyWorldConfig(**{"layout": self.layout, **fields})


OCC3D, SURROUNDOCC, KITTI360 = DrivingWorld("occ3d"), DrivingWorld("surroundocc"), DrivingWorld("kitti360")
DDAD = DrivingWorld("ddad")


@dataclass(frozen=True)
class Written:
    """The toy data of a data set that has a writer of its own.

    name     of the data set
    version  raise it with every change to what is written
    write    (an empty folder, the preset's ``DataPreset.toyworld`` as options) -> nothing, the data set in that folder
    """

    name: str
    version: int
    write: Callable[..., None]

    def fingerprint(self, fields: Mapping[str, Any]) -> str:
        """Name of what is written with the fields."""
        text = json.dumps({"name": self.name, "version": self.version, **fields}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def ensure(self, fields: Mapping[str, Any]) -> Path:
        """The data root, written first if the cache does not hold it."""
        name = self.fingerprint(fields)

        def build(root: Path) -> None:
            self.write(root, **fields)
            files.write(root / _SUMMARY, json.dumps({"fingerprint": name, "frames": {}}) + "\n")

        return _ensure(default_cache() / "toyworld" / name, name, build)


def summary(root: Path) -> dict:
    """What ``ensure`` noted about a data set: fingerprint, config, frames and class counts by split."""
    return json.loads((root / _SUMMARY).read_text())


def _holds(root: Path, name: str) -> bool:
    try:
        return bool((root / _SUMMARY).is_file() and summary(root)["fingerprint"] == name)
    except (ValueError, TypeError, KeyError, RecursionError):  # no note of ours
        return False


def _drop_stale_kernels() -> None:
    """Remove compiled kernels older than any source here.

    numba's cache looks only at the file of a kernel, not at the files of the kernels it calls, and would go on
    drawing the ground of an earlier version of ``ground.py``.
    """
    here = Path(__file__).parent
    newest = max(source.stat().st_mtime for source in here.glob("*.py"))
    for index in (here / "__pycache__").glob("*.nbi"):
        if index.stat().st_mtime < newest and os.access(index.parent, os.W_OK):
            index.unlink(missing_ok=True)


def _build(config: ToyWorldConfig, root: Path) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from .recording import write  # not above: the command holds the process to its instructions before numpy is loaded

    _drop_stale_kernels()
    splits = {split: config.size(split) for split in config.splits}
    total = sum(scenes * frames for scenes, frames in splits.values())
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Generating the toy world", total=total)
        counts = write(config, root, len(os.sched_getaffinity(0)), lambda: progress.advance(task))
    note = {
        "fingerprint": fingerprint(config),
        "generator": GENERATOR_VERSION,
        "config": asdict(config),
        "frames": {split: scenes * frames for split, (scenes, frames) in splits.items()},
        "visible_voxels": counts,
    }
    files.write(root / _SUMMARY, json.dumps(note, indent=1) + "\n")
