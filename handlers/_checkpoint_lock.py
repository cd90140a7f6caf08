"""The lock on a checkpoint folder: two runs in one would delete each other's files."""

from __future__ import annotations

import contextlib
import datetime
import errno
import functools
import logging
import os
import socket
import sys
import weakref
from collections.abc import Iterable
from pathlib import Path

from estimator.handlers.base import FolderError

LOCK = ".lock"
_LOG = logging.getLogger("estimator")
_HELD = {errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
# Windows lets nobody read what is locked, so the locked byte lies behind what the file says.
_FAR = 1 << 20


class FolderLock:
    """Holds a folder for one run, until `release` or the end of the process.

    The lock is the operating system's, which drops it however the process ends. The file alone
    means nothing: one that a killed run left behind keeps nobody out.

    Args:
        folder: An existing folder.

    Raises:
        FolderError: Another run holds it, in this process or another, or it cannot be locked.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self._descriptor: int | None = None
        try:
            self._descriptor = _locked(self._path)
            _write_holder(self._descriptor)
        except OSError as error:
            self.release()
            if error.errno in _NO_LOCKS:
                _LOG.warning(
                    "CheckpointHandler: the file system of %s has no locks (%s). See to it that "
                    "no second run writes there.", folder, error.strerror,
                )  # fmt: skip
                return
            raise _refusal(self._path, error) from error
        _locks_here().add(self)

    def release(self) -> None:
        """Lets the next run in."""
        if self._descriptor is not None:
            # Before the lock goes: afterwards the file may be another run's. Windows keeps it.
            with contextlib.suppress(OSError):
                self._path.unlink()
        self.let_go()

    def let_go(self) -> None:
        """Closes this process's copy of the descriptor, and no more."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


@functools.cache
def _locks_here() -> weakref.WeakSet[FolderLock]:
    """The locks of this process. What it forks lets go of them.

    A fork shares the locks that it inherits, and a loader's worker outlives its run for some
    seconds when the run is killed: it would keep the next run out for as long.
    """
    locks: weakref.WeakSet[FolderLock] = weakref.WeakSet()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=functools.partial(_let_go, locks))
    return locks


def _let_go(locks: Iterable[FolderLock]) -> None:
    for lock in list(locks):
        lock.let_go()


def _locked(path: Path) -> int:
    """Opens the file and locks it; raises an OSError at once where that cannot be."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor)
            # Its last holder may have deleted the file since it was opened.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, _FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _write_holder(descriptor: int) -> None:
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    text = f"pid {os.getpid()} on host {socket.gethostname()}, since {since}\n"
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, text.encode())


def _refusal(path: Path, error: OSError) -> FolderError:
    if error.errno not in _HELD:
        return FolderError(
            f"CheckpointHandler(folder=...) must be a folder that can be locked; received "
            f"{str(path.parent)!r} ({error.strerror or error}). Make room there, change its "
            "permissions or choose another folder."
        )
    holder = ""
    with contextlib.suppress(OSError):
        holder = path.read_bytes()[:300].decode(errors="replace").strip()
    return FolderError(
        f"CheckpointHandler(folder=...) must be a folder that no other run writes to; "
        f"{str(path.parent)!r} is held by {holder or 'a run that has just begun'}. Wait for that "
        "run or stop it, or give this handler a folder of its own."
    )
