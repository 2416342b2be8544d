"""The first examples of what ``make fuzz`` draws for minutes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from fuzz import NAMES

EXAMPLES = 100
"""Of each reader."""


def test_no_reader_ends_otherwise_than_by_its_own_error() -> None:
    program = Path(__file__).with_name("fuzz.py")
    words = [sys.executable, str(program), "--examples", str(EXAMPLES)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    said = re.search(rf"(\d+) examples of {len(NAMES)} readers: 0 findings", done.stdout)
    assert said is not None and int(said.group(1)) > 0.8 * EXAMPLES * len(NAMES)  # a few cannot be written
