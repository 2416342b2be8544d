"""Arrays of npy and npz files. A file's own word for the size and kind of what it holds is checked before anything is built.

Read are plain kinds only: bool, integers, floats, complex numbers, fixed-length text and bytes; no objects, no structures.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16)}
_MAX_EMPTY = 1 << 20  # the dimensions other than 0 of an array without bytes, multiplied
_MAX_PACKED = 1 << 28  # bytes of one array of an archive, where a few kilobytes may stand for gigabytes


class ArrayFileError(ValueError):
    """An npy or npz file that cannot be read as plain arrays; the message does not name it."""


def read_npy(path: str | Path) -> NDArray[Any]:
    """The array of an npy file; raises OSError, and ArrayFileError for what is no such file."""
    path = Path(path)
    with path.open("rb") as file:
        try:
            return _read(file, path.stat().st_size)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - see read_npz
            raise _unreadable(error) from error


def read_npz(path: str | Path, names: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of an npz file by name, all or those of ``names`` that it has; raises OSError, and ArrayFileError for what is no
    such file."""
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if names is not None and name not in names:
                    continue
                if info.file_size > _MAX_PACKED:
                    raise ArrayFileError(f"{info.filename} has {info.file_size} bytes when unpacked, more than {_MAX_PACKED}")
                if info.flag_bits & 1:
                    raise ArrayFileError(f"{info.filename} is encrypted")
                with archive.open(info) as file:
                    arrays[name] = _read(file, info.file_size)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - zipfile and numpy take the file's word, and fail in as many ways as it may lie
        raise _unreadable(error) from error
    return arrays


def _unreadable(error: Exception) -> ArrayFileError:
    return error if isinstance(error, ArrayFileError) else ArrayFileError(f"{str(error)[:200] or type(error).__name__}")


def _read(file: Any, size: int) -> NDArray[Any]:
    """One array; ``size`` bytes are in the file, header included."""
    shape, fortran, dtype = _header(file)
    plain = dtype.kind in "SU" or dtype.itemsize in _SIZES.get(dtype.kind, ())
    if not plain:
        raise ArrayFileError(f"it holds {str(dtype)[:80]}, no plain numbers or text; objects and pickles are not read")
    if len(shape) > 32 or any(not 0 <= n < 1 << 62 for n in shape):
        raise ArrayFileError("its array has no shape")
    count = math.prod(shape)
    wanted, there = count * dtype.itemsize, size - file.tell()
    if wanted > there:
        raise ArrayFileError(f"it is cut off: an array {list(shape)[:8]} of {dtype} takes {wanted} bytes, {there} are there")
    if not wanted and math.prod(n for n in shape if n) > _MAX_EMPTY:
        raise ArrayFileError(f"an array without content has the shape {list(shape)[:8]}")
    array = np.empty(count, dtype) if wanted else np.zeros(count, dtype)
    if wanted:
        into = array.view(np.uint8).data
        done = 0
        while done < wanted:
            got = file.readinto(into[done:])
            if not got:
                raise ArrayFileError("it is cut off")
            done += got
        if dtype.kind == "b" and array.view(np.uint8).max() > 1:
            raise ArrayFileError("its truth values are none")
        if dtype.kind == "U" and array.view(dtype.byteorder.replace("=", "<") + "u4").max() > 0x10FFFF:
            raise ArrayFileError("its text is none")
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version in readers:
        try:
            return readers[version](file)
        except Exception as error:  # noqa: BLE001 - numpy reads it as a piece of Python, which fails in many ways
            raise ArrayFileError(f"its header cannot be read ({type(error).__name__}: {str(error)[:100]})") from error
    raise ArrayFileError(f"its format {version} is that of structures, no plain numbers or text")
