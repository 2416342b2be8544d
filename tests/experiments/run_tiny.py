"""``python -m experiments.run`` with the tests' table known to it, for tests that need a process of their own."""

import sys
from pathlib import Path

import experiments.tables
from experiments.run import main

TABLES = str(Path(__file__).parent / "tables")

if __name__ == "__main__":
    experiments.tables.__path__.append(TABLES)
    sys.exit(main())
