"""The file that a connection has open: does its path still lead there?

A file, its write-ahead log, or the log's index, the `-shm` file, can be removed, restored or replaced while
connections have it open. What they commit from then on is lost. Without its index it is worse: the next process
makes a new one, with locks of its own, and the two write into one log, each over what the other has committed. So
each connection remembers what it has opened, to be compared with what is there: before and after each write, and
in each round of a consumer, at least once a second. See `djjp.engine.sqlite.guard` for how SQLite itself removes a
log that is in use.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from django.db import OperationalError

from djjp.engine.sqlite import guard
from djjp.weak_groups import WeakGroup

logger = logging.getLogger("djjp")

# Seconds. To compare three files costs a tenth of an enqueue, and a burst of enqueues does it once in this time.
_TRUST = 0.001

#: A file's device and inode; None for no file.
Identity = tuple[int, int] | None


class FileRemoved(OperationalError):
    """There is no file where the queue's was. A new connection would only create an empty one."""


@dataclass(slots=True)
class OpenFile:
    """The files that a connection has open, as they were when it connected.

    Attributes:
        driver: the driver's connection.
        name: the path in the settings, which can be a link; made absolute.
        path: the path of the file itself; empty for a database in memory.
        file: the identity of the file.
        log: that of its write-ahead log; None where there is none.
        index: that of the log's index, which has the locks of the log too; None where there is none.
        trusted_until: until when they count as in place, since they were compared.
    """

    driver: Any
    name: str
    path: str
    file: Identity
    log: Identity
    index: Identity
    trusted_until: float = 0.0

    def is_in_place(self) -> bool:
        """Return whether the paths still lead to the files that are open."""
        now = time.monotonic()
        if now < self.trusted_until or not self.path:
            return True
        if not _leads(self.name, self.file):
            return False
        if self.log is not None and not _leads(f"{self.path}-wal", self.log):
            return False
        if self.index is not None and not _leads(f"{self.path}-shm", self.index):
            return False
        self.trusted_until = now + _TRUST
        return True

    def is_complete(self) -> bool:
        """Return whether the log belongs to the file, and is known as a whole: it may then be written back.

        A log whose name was removed still does: with the guard no other process can have begun a new one. Of a log
        whose index was removed, other processes may have written a part that this connection does not see.
        """
        found = _identity(f"{self.path}-wal"), _identity(f"{self.path}-shm")
        complete = (self.log, self.index), (None, self.index), (None, None)
        return _identity(self.path) == self.file and found in complete

    def set_log_aside(self) -> None:
        """Rename a log that was left beside another file, which SQLite would write it into."""
        log = f"{self.path}-wal"
        if _identity(self.path) not in (self.file, None) and _identity(log) == self.log:
            with suppress(OSError):
                os.replace(log, f"{log}-replaced")  # noqa: PTH105  (a text, as SQLite's)
                os.unlink(f"{self.path}-shm")  # noqa: PTH108  (likewise)


def opened(connection: Any) -> OpenFile:
    """Return what a connection has open, as it was when it connected. The connection must be open."""
    known: OpenFile | None = connection.__dict__.get("djjp_file")
    if known is None or known.driver is not connection.connection:
        known = connection.djjp_file = _read(connection)
        _connections.add(connection)
        # Django has no signal for the end of a connection.
        connection._close = lambda: _close(connection)  # noqa: SLF001
    return known


def adopt(connection: Any) -> None:
    """Remember what a new connection has open.

    Raises:
        OperationalError: another thread has this file open with a log or an index that was removed. All
            connections of a process to a file share the index of its log; with that of another log they would
            damage the file.
    """
    mine = opened(connection)
    if any(
        (other.log and mine.log and other.log != mine.log)
        or (other.index and other.index != mine.index)
        for other in _neighbours(connection)
    ):
        connection.close()
        raise OperationalError(
            f"the -wal or -shm file of {mine.name} was removed, and another thread of this process still has it"
            " open; restart the process"
        )


def confirm(connection: Any) -> None:
    """Make sure that the paths lead to the files that are open: before a write, and after a write or a read.

    Raises:
        OperationalError: they do not. The connection is closed, unless there is no file to open instead.
    """
    known: OpenFile | None = connection.__dict__.get("djjp_file")
    if known and known.driver is connection.connection and time.monotonic() < known.trusted_until:
        return
    file = opened(connection)
    if file.is_in_place():
        return
    if _identity(file.name) is None:
        raise FileRemoved(f"the file {file.name} was removed while it was open")
    file.set_log_aside()
    connection.close()
    logger.warning(
        "the queue's file %s, or its -wal or -shm file, was removed or replaced while it was open;"
        " opening it anew",
        file.name,
    )
    raise OperationalError(f"the file {file.name} was replaced while it was open")


def _read(connection: Any) -> OpenFile:
    driver = connection.connection
    with connection.wrap_database_errors:
        # Only a connection that has read has a log.
        driver.execute("SELECT 1 FROM sqlite_master").fetchone()
        (mode,) = driver.execute("PRAGMA journal_mode").fetchone()
        # The path of the file itself where the settings name a link to it.
        (_, _, path), *_ = driver.execute("PRAGMA database_list")
    if not path:
        return OpenFile(driver, "", "", None, None, None)
    name = str(connection.settings_dict["NAME"])
    name = path if name.startswith("file:") else os.path.abspath(name)  # noqa: PTH100  (a text, as SQLite's)
    if mode != "wal":
        return OpenFile(driver, name, path, _identity(path), None, None)
    guard.hold(path)
    log, index = _identity(f"{path}-wal"), _identity(f"{path}-shm")
    return OpenFile(driver, name, path, _identity(path), log, index)


def _leads(path: str, identity: Identity) -> bool:
    try:
        found = os.stat(path)  # noqa: PTH116  (a Path takes three times as long)
    except FileNotFoundError:
        return False
    except OSError:  # it cannot be told
        return True
    return (found.st_dev, found.st_ino) == identity


def _identity(path: str) -> Identity:
    try:
        found = os.stat(path)  # noqa: PTH116  (likewise)
    except OSError:
        return None
    return found.st_dev, found.st_ino


# The connections to queues that this process has or had, of all its threads.
_connections: WeakGroup[Any] = WeakGroup()


def _neighbours(connection: Any) -> list[OpenFile]:
    """Return what other connections of this process have open of the file of this one."""
    mine: OpenFile = connection.djjp_file
    files = [(other, other.djjp_file) for other in _connections if other is not connection]
    return [
        file
        for other, file in files
        if file.driver is other.connection is not None and mine.path and file.file == mine.file
    ]


def _close(connection: Any) -> None:
    """Close a connection. The last one to a file lets SQLite write the log into the file and delete it.

    If another file, log or index is there by now, it does not: SQLite would damage the file, or delete what others
    have written.
    """
    file: OpenFile = connection.djjp_file
    if file.path and not _neighbours(connection):
        guard.release(file.path, keep_log=not file.is_complete())
    with connection.wrap_database_errors:
        connection.connection.close()


@atexit.register
def _release() -> None:
    """Release the guards, because the interpreter then closes the connections that nobody has closed."""
    files: list[OpenFile] = [connection.djjp_file for connection in _connections]
    for file in files:
        if file.path:
            guard.release(file.path, keep_log=not file.is_complete())
