"""The first seconds of what ``make fuzz`` does for minutes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from fuzz import NAMES


def test_no_reader_ends_otherwise_than_by_its_own_error() -> None:
    program = Path(__file__).with_name("fuzz.py")
    done = subprocess.run([sys.executable, str(program), "--seconds", "20"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    said = re.search(rf"(\d+) examples of {len(NAMES)} readers: 0 findings", done.stdout)
    assert said is not None and int(said.group(1)) > 100
