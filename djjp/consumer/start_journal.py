"""Begun: a note, for whoever survives this process, of which claimed jobs it has begun to run.

A claimed job that still waits in line when its consumer dies has not run: to count that as a rescue
would in the end fail jobs that merely stood beside one which kills its consumer, and would forbid a
job that must not run twice to run at all. A statement for each start would cost more than many a job.
So each start is a write of 16 bytes into a file that is mapped into memory: it outlives the process,
though not the machine, and after a reboot nobody believes it.

Whoever takes a consumer for dead first sets a flag in its note, then reads it. A consumer that was merely
frozen meets the flag when it wakes, after it has noted a job and before it runs it: so a job that was in
its line is either read as begun, or not begun there any more.
"""

from __future__ import annotations

import logging
import mmap
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from djjp.engine import Claimed

logger = logging.getLogger("djjp.consumer")

_HEADER, _CELL = 64, 16
_EMPTY = bytes(_CELL)
# The last byte of the header: whether somebody has taken the consumer for dead.
_FLAG = _HEADER - 1
_LOOK_EVERY = 0.01


class Begun:
    """The note of one consumer, with a cell for each job that it can hold at a time.

    Without a folder, or on a machine that does not say when it was booted, nothing is noted.
    """

    def __init__(self, folder: Path | None, consumer: str, jobs: int) -> None:
        self._map: mmap.mmap | None = None
        self._over = False
        self._path = None if folder is None else _path(folder, consumer)
        self._free = list(range(_HEADER, _HEADER + jobs * _CELL, _CELL))
        # By the identity of what was claimed: the hash of a UUID costs as much as all the rest.
        self._cells: dict[int, int] = {}
        boot = _boot()
        if self._path is None or boot is None:
            return
        try:
            with self._path.open("x+b") as file:
                file.write(boot.ljust(_HEADER, b"\0") + bytes(jobs * _CELL))
                file.flush()
                self._map = mmap.mmap(file.fileno(), 0)
        except OSError as error:  # a full disk keeps no consumer from its work
            logger.warning("consumer %s notes nowhere what it begins: %s", consumer, error)

    def expect(self, jobs: Iterable[Claimed]) -> None:
        """Keep a cell for each job that was claimed."""
        if self._map is not None:
            self._cells.update([(id(job), self._free.pop()) for job in jobs])

    def mark(self, job: Claimed) -> bool:
        """Note that the job begins; called on its thread.

        Returns:
            Whether it may. When somebody has taken this consumer for dead it first waits for the
            coordinator to find out whether the job is still its own.
        """
        note = self._map
        if note is None:
            return True
        cell = self._cells.get(id(job))
        if cell is None:
            return False
        note[cell : cell + _CELL] = job.id.int.to_bytes(_CELL, "big")
        while note[_FLAG]:
            if self._over:
                return False
            time.sleep(_LOOK_EVERY)
        return True

    def is_doubted(self) -> bool:
        """Whether somebody has taken this consumer for dead."""
        return self._map is not None and self._map[_FLAG] != 0

    def go_on(self) -> None:
        """This consumer has shown that it lives, and its jobs are its own."""
        if self._map is not None:
            self._map[_FLAG] = 0

    def forget(self, jobs: Iterable[Claimed]) -> None:
        """The jobs were settled: their cells are free again."""
        note, cells, free = self._map, self._cells, self._free
        if note is None:
            return
        for job in jobs:
            if (cell := cells.pop(id(job), None)) is not None:
                note[cell : cell + _CELL] = _EMPTY
                free.append(cell)

    def close(self) -> None:
        """Remove the note; what waits to begin will not."""
        self._over = True
        self._cells.clear()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def doubt(folder: Path | None, consumer: str) -> None:
    """Have a consumer that was taken for dead begin no other job before it has shown that it lives."""
    if folder is not None:
        with suppress(OSError), _path(folder, consumer).open("r+b") as file:
            file.seek(_FLAG)
            file.write(b"\1")


def begun(folder: Path | None, consumer: str) -> set[UUID] | None:
    """The jobs that a dead consumer had begun and not settled; None where nobody knows."""
    if folder is None:
        return None
    try:
        note = _path(folder, consumer).read_bytes()
    except OSError:
        return None
    boot = _boot()
    if boot is None or note[:_FLAG] != boot.ljust(_FLAG, b"\0"):
        return None
    cells = (note[at : at + _CELL] for at in range(_HEADER, len(note), _CELL))
    return {UUID(bytes=cell) for cell in cells if cell != _EMPTY}


def clear(folder: Path | None, consumer: str) -> None:
    """Remove what a dead consumer has left in the folder."""
    if folder is not None:
        path = _path(folder, consumer)
        path.unlink(missing_ok=True)
        path.with_suffix(".lock").unlink(missing_ok=True)


def _path(folder: Path, consumer: str) -> Path:
    return folder / f"{consumer.replace(':', '-')}.begun"


def _boot() -> bytes | None:
    """What tells one boot of this machine from the next; None where it is not told."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    return None
