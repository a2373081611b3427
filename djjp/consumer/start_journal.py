"""Start journal: which claimed jobs this process has started, readable by other consumers after it dies.

A claimed job that still waits for a slot when its consumer dies has not run. If that counted as a rescue,
jobs that merely waited beside a job that kills its consumer would fail in the end, and a job that must not
run twice would not run at all. A statement for each start would cost more than many jobs do. So each
start is a write of 20 bytes into a file that is mapped into memory: it outlives the process, but not the
machine, and a journal from before a reboot is ignored.

A consumer that suspects another one to be dead first sets a flag in the suspect's journal, then reads it. A
consumer that was merely frozen checks the flag after it has recorded a job and before it runs the job. So each
job that waited in the frozen consumer either is read as started, or does not start there any more.

The file can be removed, as by a program that cleans `/tmp`. So with each heartbeat it is made anew if its path
leads to another file, or to none. A flag that is set in the old file may never be seen. So the new one has the
flag from the start, and no job starts before the heartbeat is written: a rescue that began earlier then does
nothing.
"""

from __future__ import annotations

import logging
import mmap
import os
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from djjp.engine import Claimed, ClaimKey, lockfile

logger = logging.getLogger("djjp.consumer")

_HEADER, _CELL = 64, 20  # a cell is a job's id and the number of its claim
_EMPTY = bytes(_CELL)
# The last byte of the header: whether another consumer suspects that this one is dead.
_FLAG = _HEADER - 1
_POLL_EVERY = 0.01


class StartJournal:
    """The journal of one consumer, with a cell for each job that it can hold at a time.

    Without a folder, or on a machine that does not identify its boots, nothing is recorded.
    """

    def __init__(self, folder: Path | None, consumer: str, jobs: int) -> None:
        self._map: mmap.mmap | None = None
        self._file: os.stat_result | None = None  # that of the map
        self._closed = self._has_warned = False
        self._consumer = consumer
        self._path = None if folder is None else _path(folder, consumer)
        self._free = list(range(_HEADER, _HEADER + jobs * _CELL, _CELL))
        # By the identity of the `Claimed` tuple: to hash a UUID costs as much as all the rest.
        self._cells: dict[int, int] = {}
        boot = _boot()
        if self._path is None or boot is None:
            return
        self._create(self._path, boot.ljust(_HEADER, b"\0") + bytes(jobs * _CELL))

    def _create(self, path: Path, contents: bytes) -> None:
        try:
            path.unlink(missing_ok=True)
            with path.open("x+b") as file:
                lockfile.share(file.fileno(), path.parent)
                file.write(bytes(_HEADER) + contents[_HEADER:])
                file.flush()
                journal, self._file = mmap.mmap(file.fileno(), 0), os.fstat(file.fileno())
        except OSError as error:  # a full disk stops no consumer
            if not self._has_warned:
                logger.warning("consumer %s keeps no start journal: %s", self._consumer, error)
            self._has_warned = True
        else:
            # Last, because it makes the file valid for others: what is not in it has not started.
            journal[:_HEADER] = contents[:_HEADER]
            self._map, self._path, self._has_warned = journal, path, False

    def renew(self, folder: Path | None) -> bool:
        """Make the file anew if it was removed or replaced. Called on the coordinator, before a heartbeat.

        Returns:
            Whether it was. Then no job starts before `clear_suspicion`, even if no file could be made.
        """
        journal, path = self._map, folder and _path(folder, self._consumer)
        if journal is None or path is None or self._closed or self._is_at(path):
            return False
        # First the flag: a start that is not in the copy was recorded after the flag was set. So it waits, and is
        # recorded in the new file before it ends.
        journal[_FLAG] = 1
        self._create(path, journal[:])
        return True

    def _is_at(self, path: Path) -> bool:
        try:
            return self._file is not None and os.path.samestat(path.stat(), self._file)
        except FileNotFoundError:
            return False
        except OSError:  # it cannot be told
            return True

    def reserve(self, jobs: Collection[Claimed]) -> None:
        """Reserve a cell for each job that was claimed."""
        if self._map is not None and jobs:
            cells = self._free[-len(jobs) :]
            del self._free[-len(jobs) :]
            self._cells.update(zip(map(id, jobs), cells, strict=True))

    def record(self, job: Claimed) -> bool:
        """Record that the job starts. Called on the job's thread.

        Returns:
            Whether it may start. While another consumer suspects that this one is dead, the job waits
            for the coordinator to find out whether the job is still its own.
        """
        journal = self._map
        if journal is None:
            return True
        cell = self._cells.get(id(job))
        if cell is None:
            return False
        start = (job.id.int << 32 | job.claim).to_bytes(_CELL, "big")
        journal[cell : cell + _CELL] = start
        while journal[_FLAG]:
            if self._closed:
                return False
            time.sleep(_POLL_EVERY)
            journal = self._map or journal
            journal[cell : cell + _CELL] = start  # the file can have been made anew without it
        return True

    def is_suspected(self) -> bool:
        """Return whether another consumer suspects that this one is dead."""
        return self._map is not None and self._map[_FLAG] != 0

    def clear_suspicion(self) -> None:
        """Let jobs start again: this consumer has shown that it lives and that its jobs are its own."""
        if self._map is not None:
            self._map[_FLAG] = 0

    def forget(self, jobs: Iterable[Claimed]) -> None:
        """Free the cells of jobs whose end or release was written."""
        journal, cells, free = self._map, self._cells, self._free
        if journal is None:
            return
        for number in map(id, jobs):
            if (cell := cells.pop(number, None)) is not None:
                journal[cell : cell + _CELL] = _EMPTY
                free.append(cell)

    def close(self) -> None:
        """Remove the journal; jobs that wait to start do not start any more."""
        self._closed = True
        self._cells.clear()
        if self._path is not None:
            with suppress(OSError):  # the filesystem can have become read-only
                self._path.unlink(missing_ok=True)


def suspect(folder: Path | None, consumer: str) -> None:
    """Flag a consumer as possibly dead: it starts no further job before it has shown that it lives."""
    if folder is not None:
        with suppress(OSError), _path(folder, consumer).open("r+b") as file:
            file.seek(_FLAG)
            file.write(b"\1")


def started(folder: Path | None, consumer: str) -> set[ClaimKey] | None:
    """Return the claims whose jobs a dead consumer had started and not settled; None without a valid journal."""
    if folder is None:
        return None
    try:
        journal = _path(folder, consumer).read_bytes()
    except OSError:
        return None
    boot = _boot()
    if boot is None or journal[:_FLAG] != boot.ljust(_FLAG, b"\0"):
        return None
    cells = (journal[at : at + _CELL] for at in range(_HEADER, len(journal), _CELL))
    return {
        (UUID(bytes=cell[:16]), int.from_bytes(cell[16:], "big"))
        for cell in cells
        if cell != _EMPTY
    }


def clear(folder: Path | None, consumer: str) -> None:
    """Remove the files of a dead consumer from the folder."""
    if folder is not None:
        path = _path(folder, consumer)
        with suppress(OSError):  # of another user
            path.unlink(missing_ok=True)
            path.with_suffix(".lock").unlink(missing_ok=True)


def _path(folder: Path, consumer: str) -> Path:
    return lockfile.path_of(folder, consumer, ".journal")


def _boot() -> bytes | None:
    """Return an id of the machine's present boot; None where the system has none."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    return None
