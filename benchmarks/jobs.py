"""The jobs that the benchmarks run."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from djjp import job
from djjp.engine.totals import Totals


@job(api=True)
def noop(number: int) -> None:
    """Do nothing, so that only the queue is measured."""


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
    """Return the time at which the function runs."""
    return time.time()


def _nothing(number: int) -> None:
    """Do nothing, under one of many names."""


#: Jobs that do nothing, each with a name of its own.
MANY = [job(name=f"benchmarks.jobs.nothing_{number}")(_nothing) for number in range(1000)]


def uncounted(self: Totals, *args: Any, **options: Any) -> None:
    """Take the place of `Totals.entry_of`."""


# What totals cost is measured by a consumer without them: see `benchmarks.totals`.
if os.environ.get("DJJP_BENCH_TOTALS") == "no":
    Totals.entry_of = uncounted  # type: ignore[method-assign]  # in this process only
