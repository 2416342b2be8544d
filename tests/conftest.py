"""Fixtures shared by all tests."""

from __future__ import annotations

from experiments import instructions

instructions.hold()  # as the commands do; processes that tests start inherit it

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# The environment counts as active whoever calls the tests, so that commands in messages are always the short ones.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, then those with many: what comes last is short, and no process is left alone with it."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    many = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path not in slow, -many[item.path]))


@pytest.fixture(scope="session")
def real_frames() -> Path:
    """Folder with a few real nuScenes frames in the official layouts; skips where there is none."""
    named = os.environ.get("OCC_REAL_FRAMES")
    candidates = [Path(named)] if named else [p / "shared/data/nuscenes-frames" for p in (ROOT, ROOT.parent)]
    for folder in candidates:
        if (folder / "bevdetv2-nuscenes_infos_val.pkl").is_file():
            return folder
    pytest.skip("no real frames: set OCC_REAL_FRAMES to a folder with nuScenes frames in the official layouts")
