"""The guard of a file that is open: no other process deletes its write-ahead log, the `-wal` file.

SQLite deletes the log when it closes the last connection, and detects the connections of other processes by
POSIX locks. The system drops those locks as soon as the process closes *any* descriptor of the file, such as that
of a program that reads the file to copy it. The next process that comes and goes then deletes the log of a living
connection, and all that this connection commits from then on is lost.

So SQLite's descriptors get the same locks a second time, in Linux's form that belongs to a descriptor and not to
the process. Only the end of that descriptor drops them.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # the module does not exist there

# What SQLite locks for as long as a connection is open, by the suffix of the file: the bytes of its readers, and
# the byte of the processes that use the log's index. Each as (first, number).
_LOCKED = {"": (0x40000000 + 2, 510), "-shm": (128, 1)}

# The descriptors that this process has locked, and those that it has from a parent, which shares their locks.
_locked: set[int] = set()
_inherited: set[int] = set()


def hold(path: str) -> None:
    """Lock a file in WAL mode, which a connection of this process has open."""
    if hasattr(fcntl, "F_OFD_SETLK"):
        for suffix, (start, length) in _LOCKED.items():
            for descriptor in _descriptors(path + suffix):
                if descriptor not in _inherited:
                    _set(fcntl.F_RDLCK, descriptor, start, length)
                    _locked.add(descriptor)


def release(path: str, *, keep_log: bool = False) -> None:
    """Release the locks, so that SQLite can delete the log as it closes its last connection.

    Args:
        keep_log: release only the index of the log, for the next connection to rebuild.
    """
    if _locked:
        for suffix in ["-shm"] if keep_log else _LOCKED:
            for descriptor in _descriptors(path + suffix):
                if descriptor in _locked:
                    _set(fcntl.F_UNLCK, descriptor, 0, 0)
                    _locked.discard(descriptor)


def _descriptors(path: str) -> Iterator[int]:
    """Return the descriptors that this process has of a file."""
    with suppress(OSError):
        file = os.stat(path)  # noqa: PTH116  (a text, as SQLite's)
        for descriptor in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208  (numbers)
            with suppress(OSError):  # closed meanwhile
                if os.path.samestat(os.fstat(descriptor), file):
                    yield descriptor


def _set(type_: int, descriptor: int, start: int, length: int) -> None:
    flock = struct.pack("hhqqi", type_, os.SEEK_SET, start, length, 0)  # the C structure
    with suppress(OSError):  # a descriptor of other code, which may not be readable
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, flock)


def _leave_to_parent() -> None:
    _inherited.update(_locked)
    _locked.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
