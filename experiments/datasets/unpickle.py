"""Reading of data set pickles without running what they name: numpy arrays and plain Python values only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baselines.pickles import PickleError, PlainUnpickler, RefusedGlobal, Unfinished
from camera_occupancy_bench.files import WriteError


class DataError(ValueError):
    """Data on disk is missing, damaged or not what the official layout says; the message names the file."""


@contextmanager
def refusing(what: str, remedy: str) -> Iterator[None]:
    """Whatever goes wrong within, where ``what`` is read, as a DataError that names it: a file holds what somebody else wrote,
    and the ways in which that can be something else are not to be counted."""
    try:
        yield
    except (DataError, WriteError):
        raise
    except Exception as error:
        problem = f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise DataError(f"{what} cannot be read ({' '.join(problem.split())[:300]}): {remedy}") from error


@dataclass(frozen=True, eq=False)
class Quaternion:
    """What stands for pyquaternion's rotations, which some published pickles hold; numpy takes it as an array.

    q  [4] float64 (w, x, y, z)
    """

    q: NDArray[np.float64]

    @property
    def elements(self) -> NDArray[np.float64]:
        """``q`` under pyquaternion's other name."""
        return self.q

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.q, dtype=dtype)


class _Rotation(Unfinished):
    """A quaternion before its numbers."""

    def finish(self, state: Any) -> Quaternion:
        q = state.get("q") if type(state) is dict else None
        if not isinstance(q, np.ndarray) or q.shape != (4,) or q.dtype.kind != "f":
            raise PickleError("a quaternion has no four numbers")
        return Quaternion(q.astype(np.float64))


_MAKERS = {("pyquaternion.quaternion", "Quaternion"): _Rotation}


def load_infos(path: str | Path, published: str = "it belongs to the data set") -> Any:
    """The content of a data set pickle (protocols 0 to 5, written by numpy 1 or 2).

    published  where it can be had, for the error of a missing file

    Rebuilt are plain Python values, numpy arrays and scalars of plain kinds, and quaternions. Raises DataError naming the
    file if it is missing, damaged, nested too deep, or holds anything else (naming the refused global, which is never
    imported).
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no data set pickle {path}: {published}; name the folder that holds it with --data-root")
    try:
        return PlainUnpickler(path.read_bytes(), _MAKERS).content()
    except RefusedGlobal as error:
        raise DataError(f"{path} is not a plain data pickle: refused {error}, which could run code") from None
    except Exception as error:
        problem = str(error) or type(error).__name__
        raise DataError(f"{path} is damaged, or no plain data ({problem}): copy or download it again") from error
