"""How every file of the project is written: beside its place and then renamed, so that there is the old one or the whole new one.

Nothing but a kill leaves a temporary file, and the next command that writes into the same folder removes it. Standard library
only: the commands of ``renderers``, which run alone, write as those of ``experiments`` and ``reports`` do.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_END = ".tmp"


class WriteError(OSError):
    """A file that cannot be written, for want of space or of a right, say; the message names it and the way out.

    Whatever was there before is there still.
    """

    def __str__(self) -> str:
        space = {errno.ENOSPC: "free some space", errno.EDQUOT: "free some space", errno.EFBIG: "raise the limit (ulimit -f)"}
        remedy = space.get(self.errno or 0, "make its folder writable, or name another one")
        return f"{self.filename} cannot be written ({self.strerror}); {remedy}"


def told(error: BaseException) -> str:
    """What an error says; one of the system's names its file first."""
    if isinstance(error, OSError) and not isinstance(error, WriteError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _unwritten(path: Path, error: OSError) -> WriteError:
    return WriteError(error.errno or errno.EIO, error.strerror or str(error), str(path))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write into, ending in .tmp; behind the block it takes the place of ``path``, complete on the
    disk, or is removed if the block raised.

    Folders above it are made; a link is followed; a device or pipe is what the block gets itself. Raises WriteError for every
    OSError.
    """
    path = Path(os.path.realpath(path))
    try:
        make_folder(path.parent)
        if path.exists() and not path.is_file():
            yield path
            return
        remove_left(path.parent)
        handle, temporary = _locked(path)
    except OSError as error:
        raise _unwritten(path, error) from error
    try:
        yield temporary
        os.fsync(handle)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, WriteError):
            raise _unwritten(path, error) from error
        raise
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """A folder, with those above it, unless it is there; raises OSError, which of links in a circle says that they are one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        folder.stat()
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from error


def write(path: Path, content: str | bytes) -> None:
    """A whole file, text as UTF-8; raises WriteError."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@functools.lru_cache(maxsize=4096)  # some folders have thousands of files; what was left is older than this process
def remove_left(folder: Path) -> None:
    """Remove the temporary files in ``folder`` whose process is gone; those that are being written are let alone."""
    try:
        names = os.listdir(folder)
    except OSError:  # files may be written where names cannot be read
        return
    for name in names:
        if name.startswith(".") and name.endswith(_END):
            _remove_if_left(folder / name)


def _remove_if_left(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # gone, or not ours
        return
    try:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
    except OSError:  # its process is at work
        pass
    finally:
        os.close(handle)


def _locked(path: Path) -> tuple[int, Path]:
    """A new file beside ``path``, and a handle whose lock says that it is being written; the lock dies with the process."""
    while True:
        # The names of a folder have 255 bytes at most, and those of cells may be long.
        temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}{_END}")
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        fcntl.flock(handle, fcntl.LOCK_EX)
        if _is(temporary, handle):
            return handle, temporary
        os.close(handle)  # before it was locked, another process took it for one that was left


def _is(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False
