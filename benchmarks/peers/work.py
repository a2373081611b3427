"""The jobs that every queue runs, and the files by which the parent reads when they ran.

A process writes a file at the start of its first job and at the end of its last job. The cost is negligible,
and the same for all queues.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from pathlib import Path

FOLDER = "DJJP_PEERS_MARKS"
JOBS = "DJJP_PEERS_JOBS"

_folder = Path(os.environ.get(FOLDER, "."))
_jobs = int(os.environ.get(JOBS, "0"))
_begun, _ended = itertools.count(1), itertools.count(1)


def _begin() -> None:
    if next(_begun) == 1:
        (_folder / f"first-{os.getpid()}").write_text(repr(time.time()))


def _end() -> None:
    if next(_ended) == _jobs:
        (_folder / "last").touch()


def noop(value: float) -> None:
    """Do nothing."""
    _begin()
    _end()


def nap(value: float) -> None:
    """Sleep."""
    _begin()
    time.sleep(value)
    _end()


async def anoop(value: float) -> None:
    """Do nothing, as a coroutine."""
    _begin()
    _end()


async def anap(value: float) -> None:
    """Sleep, as a coroutine."""
    _begin()
    await asyncio.sleep(value)
    _end()
