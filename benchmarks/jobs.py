"""The jobs that the benchmarks run."""

from __future__ import annotations

import asyncio
import time

from djjp import job


@job
def noop(number: int) -> None:
    """Do nothing, so that what is measured is the queue."""


@job
def nap(seconds: float) -> None:
    """Sleep."""
    time.sleep(seconds)


@job
async def anap(seconds: float) -> None:
    """Sleep, as a coroutine."""
    await asyncio.sleep(seconds)


@job
def stamp() -> float:
    """Say when the function ran."""
    return time.time()
