"""Reading of data set pickles without running what they name: numpy arrays and plain Python values only."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np


class DataError(ValueError):
    """Data on disk is missing, damaged or not what the official layout says; the message names the file."""


def _latin1(text: str, encoding: str) -> bytes:
    """What ``_codecs.encode`` does for the bytes of arrays in protocol-2 pickles, and nothing else."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text encoding '{encoding}'")
    return text.encode("latin1")


# numpy's own rebuild functions, asked of numpy because they moved from numpy.core to numpy._core in numpy 2.
_NUMPY_GLOBALS: dict[tuple[str, str], Any] = {
    ("multiarray", "_reconstruct"): np.zeros(1).__reduce__()[0],
    ("multiarray", "scalar"): np.float64(0).__reduce__()[0],
    ("numeric", "_frombuffer"): np.zeros(1).__reduce_ex__(5)[0],
}
_PLAIN_GLOBALS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _latin1,
    **{("builtins", t.__name__): t for t in (bytearray, bytes, complex, dict, frozenset, list, set, slice, tuple)},
}


class _DataUnpickler(pickle.Unpickler):
    """Resolves the globals that arrays and plain containers need and refuses all others."""

    def find_class(self, module: str, name: str) -> Any:
        for prefix in ("numpy.core.", "numpy._core."):
            key = (module.removeprefix(prefix), name)
            if module.startswith(prefix) and key in _NUMPY_GLOBALS:
                return _NUMPY_GLOBALS[key]
        plain = ("builtins" if module == "__builtin__" else module, name)  # Python 2's name, in protocols 0 to 2
        if plain in _PLAIN_GLOBALS:
            return _PLAIN_GLOBALS[plain]
        raise pickle.UnpicklingError(f"global '{module}.{name}'")


def load_infos(path: str | Path, published: str = "it belongs to the data set") -> Any:
    """The content of a data set pickle (protocols 0 to 5, written by numpy 1 or 2).

    published  where it can be had, for the error of a missing file

    Only numpy arrays and scalars and plain Python values are rebuilt. Raises DataError naming the file if it is
    missing, damaged, or holds anything else (naming the refused global, which is never imported).
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no data set pickle {path}: {published}; name the folder that holds it with --data-root")
    try:
        with path.open("rb") as file:
            return _DataUnpickler(file).load()
    except pickle.UnpicklingError as error:
        if str(error).startswith(("global ", "text encoding ")):
            raise DataError(f"{path} is not a plain data pickle: refused {error}, which could run code") from None
        raise DataError(f"{path} is damaged ({error}): copy or download it again") from error
    except (EOFError, ValueError, TypeError, AttributeError, KeyError, IndexError, ImportError, MemoryError) as error:
        raise DataError(f"{path} is damaged ({type(error).__name__}: {error}): copy or download it again") from error
