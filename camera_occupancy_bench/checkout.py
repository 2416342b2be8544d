"""Which commit runs. Standard library only."""

from __future__ import annotations

import subprocess
from typing import NamedTuple

from camera_occupancy_bench import CHECKOUT, ROOT


class GitState(NamedTuple):
    """Commit of the checkout and whether tracked files differ from it."""

    commit: str
    dirty: bool


def git_state() -> GitState:
    """State of the checkout; outside a git checkout the commit is "unknown" and counts as dirty. Nothing in it is written."""
    if not CHECKOUT:  # a repository around an environment is not the project's
        return GitState("unknown", True)
    try:
        commit, changes = (_git(*words) for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no")))
    except (OSError, subprocess.CalledProcessError):
        return GitState("unknown", True)
    return GitState(commit, bool(changes))


def _git(*words: str) -> str:
    """What git says. It takes no lock, which a full disk or a kill would leave behind, and every later commit would fail at."""
    command = ["git", "--no-optional-locks", "-C", str(ROOT), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
