"""One process works on a cell, of all machines that see its folder. Light.

Two locks, one within the other:

- ``.<cell>.lock``, locked by the kernel (flock). It dies with its process, whatever ends that. NFSv4, GPFS and most Lustre mounts
  hold it between machines; some mounts (``localflock``, ``local_lock=flock``) hold it on one machine only, and do not say so.
- ``.<cell>.lease``, made exclusively, which any shared file system does. It names the machine and the process, and its time is
  renewed every ``BEAT`` seconds.

When a lease is stale: one of this machine, as soon as the kernel's lock is ours, since its holder would have it; one of another
machine, if it was not renewed for ``STALE`` seconds. The file system's own clock says so, by the time of a file made just now:
clocks of machines need not agree. A holder that could not renew its lease for so long (a machine asleep, a file system away), and
whose cell another machine took over, finds that out within ``BEAT`` seconds and stops as by Ctrl-C.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

BEAT = 15.0
"""Seconds between two renewals of a lease."""
STALE = 180.0
"""Seconds without a renewal, by the file system's clock, behind which another machine takes a cell over."""
POLL = 5.0
"""Seconds between two looks at a lease that is waited for."""


@dataclass(frozen=True)
class Holder:
    """Who works on a cell.

    machine  id of the running system: the same kernel's lock reaches all that have it, containers too
    host     its name, for people
    token    drawn for each lease
    """

    machine: str
    host: str
    process: int
    token: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


_HOLDER: TypeAdapter[Holder] = TypeAdapter(Holder)


class Held(Exception):
    """Another process works on it; ``holder`` where that is known."""

    def __init__(self, holder: Holder | None) -> None:
        super().__init__(str(holder))
        self.holder = holder


@functools.cache
def machine() -> str:
    """Id of the running system; its name where the kernel gives none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def holder_of(path: Path) -> Holder | None:
    """Who works on the cell whose lock is ``path``; None for nobody, or for one that is gone. Only looks."""
    lease = _lease(path)
    found = _read(lease)
    if found is None:
        return None
    if found.machine == machine():
        return found if _runs(found.process) else None
    try:
        return found if time.time() - lease.stat().st_mtime < STALE else None
    except OSError:
        return None


@contextlib.contextmanager
def hold(path: Path, wait: bool) -> Iterator[None]:
    """Hold the lock ``path``; if another process does, wait for it, or raise Held. OSError where the folder cannot be written."""
    lock = FileLock(path)
    while True:
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            raise Held(holder_of(path)) from None
        try:
            mine = _take(_lease(path))
            break
        except Held:
            lock.release()
            if not wait:
                raise
            time.sleep(POLL)
        except BaseException:
            lock.release()
            raise
    over = threading.Event()
    beat = threading.Thread(target=_renew, args=(_lease(path), mine, over), daemon=True)
    beat.start()
    try:
        yield
    finally:
        over.set()
        beat.join()
        if _read(_lease(path)) == mine:
            _lease(path).unlink(missing_ok=True)
        lock.release()


def _lease(path: Path) -> Path:
    return path.with_suffix(".lease")


def _take(lease: Path) -> Holder:
    """Make the lease, in the place of a stale one if need be; raises Held. The kernel's lock is ours."""
    mine = Holder(machine(), socket.gethostname(), os.getpid(), secrets.token_hex(8))
    while True:
        try:
            handle = os.open(lease, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            found = _read(lease)
            if (found is None or found.machine != machine()) and _age(lease) < STALE:
                raise Held(found) from None
            _put_away(lease, found)
            continue
        with os.fdopen(handle, "w") as file:
            json.dump(mine.__dict__, file)
        return mine


def _put_away(lease: Path, stale: Holder | None) -> None:
    """Remove a stale lease, and no other one that took its place meanwhile."""
    aside = lease.with_suffix(f".{secrets.token_hex(4)}.old")
    try:
        lease.rename(aside)
    except FileNotFoundError:
        return
    if _read(aside) != stale:
        with contextlib.suppress(FileExistsError):
            os.link(aside, lease)
    aside.unlink()


def _age(lease: Path) -> float:
    """Seconds since the lease was renewed, by the clock that gives files their times; infinite if it is gone."""
    probe = lease.with_suffix(f".{secrets.token_hex(4)}.now")
    probe.touch()
    try:
        return probe.stat().st_mtime - lease.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
    finally:
        probe.unlink()


def _renew(lease: Path, mine: Holder, over: threading.Event) -> None:
    """Renew the lease until it is ``over``; end the work, as Ctrl-C does, where another process has it."""
    while not over.wait(BEAT):
        found = _read(lease)
        if found is not None and found != mine:
            os.kill(os.getpid(), signal.SIGINT)
            return
        with contextlib.suppress(OSError):  # a file system that is away for a while; the next time counts
            if found is None:
                with contextlib.suppress(FileExistsError):
                    handle = os.open(lease, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                    with os.fdopen(handle, "w") as file:
                        json.dump(mine.__dict__, file)
            else:
                os.utime(lease)


def _read(lease: Path) -> Holder | None:
    """What a lease says; None for none, or one that is being written."""
    try:
        return _HOLDER.validate_json(lease.read_bytes(), strict=True)
    except (OSError, ValueError):
        return None


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
