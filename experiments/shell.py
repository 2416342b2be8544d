"""Commands in messages as a shell has to be told them: by the path of this environment's programs where it is not activated.

Standard library only: the doctor runs before anything is installed.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

# A program of the environment with what follows it in a command; the words alone stand in sentences too.
_COMMAND = re.compile(r"(?<![\w./-])(python(?= -m )|mlflow(?= ui )|pip(?= install )|torchrun(?= --))")


def runnable(message: str) -> str:
    """The message with ``python -m ...``, ``torchrun``, ``mlflow ui`` and ``pip install`` in it so that a copy of them works."""
    return _COMMAND.sub(lambda found: program(found.group()), message)


def program(name: str) -> str:
    """``name`` where the shell finds this environment's program of that name, else its path, relative if it is below here."""
    # Not resolved: an environment's interpreter is a link to the one that it was made with.
    here = Path(sys.executable).parent
    found = shutil.which(name)
    if found is not None and Path(found).parent.resolve() == here.resolve():
        return name
    path = here / name
    if name == "python" and not path.exists():
        path = Path(sys.executable)
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))
