"""Lock files: an operating system's lock on a file, which ends with the process that has it.

A held lock proves that its process lives, and a free one that it has ended, but only to a process that sees the
same file. So the answer has three values: held, free, and unknown. It is unknown without the file, without the
permission to read it, and if the file is only a copy of the locked file: a lock file holds its inode number.

The locks are those of `flock`. To close another descriptor of the file does not end them, as it would end a lock
of `fcntl`: a job can read the whole folder. A forked child shares the lock; it closes its descriptor at once, so
that the lock ends with the process that took it.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from djjp.forks import in_child

try:
    import fcntl
except ImportError:  # Windows: without locks, only heartbeats report that a consumer lives
    fcntl = None  # type: ignore[assignment]  # the module does not exist there

# A check holds the lock for some microseconds: an attempt to take it is repeated that often.
_ATTEMPTS, _PAUSE = 5, 0.002


class _Held(NamedTuple):
    """A lock of this process: its descriptor, and the file as it was locked."""

    descriptor: int
    device: int
    inode: int

    def is_open(self) -> bool:
        """Return whether the descriptor still is of this file: a job can have closed it."""
        with suppress(OSError):
            return _identity(os.fstat(self.descriptor)) == self[1:]
        return False

    def is_at(self, path: Path) -> bool:
        """Return whether others find the file there: it can have been removed or replaced."""
        with suppress(OSError):
            return _identity(path.stat()) == self[1:]
        return False

    def close(self) -> None:
        if self.is_open():
            os.close(self.descriptor)


_held: dict[Path, _Held] = {}


def path_of(folder: Path, consumer: str, suffix: str) -> Path:
    """Return the path of a consumer's file, which stays in the folder whatever a row by hand has as its name."""
    return folder / (re.sub(r"[^a-zA-Z0-9._-]", "-", consumer) + suffix)


def acquire(path: Path) -> bool:
    """Acquire the lock, or keep it; return whether this process has it now.

    A lock that was lost, because its file was removed or its descriptor closed, is acquired again.
    """
    held = _held.get(path)
    if held is not None and held.is_open() and held.is_at(path):
        return True
    if held is not None:
        del _held[path]
        held.close()
    if fcntl is None:
        return False
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:  # a folder of another user, or one that cannot be written
        return False
    held = _Held(descriptor, *_identity(os.fstat(descriptor)))
    try:
        if _lock(descriptor) and held.is_at(path):
            share(descriptor, path.parent)
            os.pwrite(descriptor, str(held.inode).encode(), 0)
            _held[path] = held
            return True
    except OSError:  # a full disk, or a file system without locks
        pass
    os.close(descriptor)
    return False


def release(path: Path) -> None:
    """Release this process's lock and remove the file; do nothing to another process's lock."""
    if (held := _held.pop(path, None)) is not None:
        if held.is_at(path):
            path.unlink(missing_ok=True)
        held.close()


def is_locked(path: Path) -> bool | None:
    """Return whether any process has the lock; None if that is unknown here."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (OSError, ValueError):  # a name by hand can have a NUL in it
        return None
    try:
        # A shared lock, so that two processes that check at the same moment do not block each other.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        locked_inode = os.pread(descriptor, 32, 0)
        return False if locked_inode == str(os.fstat(descriptor).st_ino).encode() else None
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)


def share(descriptor: int, folder: Path) -> None:
    """Let those read and write a file who can do so with its folder, whatever the umask of this process."""
    with suppress(OSError):
        os.fchmod(descriptor, folder.stat().st_mode & 0o666)


@in_child
def abandon_all() -> None:
    """Close the descriptors of all locks: a forked child must not keep its parent's locks from ending."""
    for held in _held.values():
        held.close()
    _held.clear()


def _lock(descriptor: int) -> bool:
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE)
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
