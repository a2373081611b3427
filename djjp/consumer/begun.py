"""Begun: a note, for whoever survives this process, of which claimed jobs it has begun to run.

A claimed job that still waits in line when its consumer dies has not run: to count that as a rescue
would in the end fail jobs that merely stood beside one which kills its consumer, and would forbid a
job that must not run twice to run at all. A statement for each start would cost more than many a job.
So each start is a write of 16 bytes into a file that is mapped into memory: it outlives the process,
though not the machine, and after a reboot nobody believes it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from djjp.claims import Claimed

_HEADER, _CELL = 64, 16
_EMPTY = bytes(_CELL)


class Begun:
    """The note of one consumer, with a cell for each job that it can hold at a time.

    Without a folder, or on a machine that does not say when it was booted, nothing is noted.
    """

    def __init__(self, folder: Path | None, consumer: str, jobs: int) -> None:
        self._map: mmap.mmap | None = None
        self._path = None if folder is None else _path(folder, consumer)
        self._free = list(range(_HEADER, _HEADER + jobs * _CELL, _CELL))
        # By the identity of what was claimed: the hash of a UUID costs as much as all the rest.
        self._cells: dict[int, int] = {}
        boot = _boot()
        if self._path is None or boot is None:
            return
        with self._path.open("x+b") as file:
            file.write(boot.ljust(_HEADER, b"\0") + bytes(jobs * _CELL))
            file.flush()
            self._map = mmap.mmap(file.fileno(), 0)

    def expect(self, jobs: Iterable[Claimed]) -> None:
        """Keep a cell for each job that was claimed."""
        if self._map is not None:
            self._cells.update((id(job), self._free.pop()) for job in jobs)

    def mark(self, job: Claimed) -> None:
        """Note that the job begins; called on its thread."""
        cell = self._cells.get(id(job))
        if cell is not None and self._map is not None:
            self._map[cell : cell + _CELL] = job.id.bytes

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
        """Remove the note."""
        self._cells.clear()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def begun(folder: Path | None, consumer: str) -> set[UUID] | None:
    """The jobs that a dead consumer had begun and not settled; None where nobody knows."""
    if folder is None:
        return None
    try:
        note = _path(folder, consumer).read_bytes()
    except OSError:
        return None
    boot = _boot()
    if boot is None or note[:_HEADER] != boot.ljust(_HEADER, b"\0"):
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
