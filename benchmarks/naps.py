"""The table `table`: jobs that sleep 10 to 100 ms, and the time of a consumer in units of the ideal time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.environment import empty, on
from benchmarks.jobs import anap, nap
from benchmarks.processes import drained
from benchmarks.report import Column, Section, progress
from benchmarks.sleeping import ideal, sleeps

_COLUMNS = [
    Column("database", "database"),
    Column("jobs", "jobs", ",d"),
    Column("at once", "threads", "d"),
    Column("as", "as"),
    Column("creation s", "creation_seconds", ".3f"),
    Column("start-up s", "startup_seconds", ".3f"),
    Column("consumption s", "consumption_seconds", ".3f"),
    Column("ideal s", "ideal_seconds", ".3f"),
    Column("ratio", "ratio", ".3f"),
]


class Row(NamedTuple):
    """The number of jobs and of slots: threads, or tasks of one loop."""

    jobs: int
    threads: int
    concurrency: str = "threads"


ROWS = [
    Row(100, 1),
    Row(1_000, 1),
    Row(10_000, 1),
    Row(100, 5),
    Row(1_000, 10),
    Row(1_000, 20),
    Row(1_000, 50),
    Row(10_000, 50),
    Row(1_000, 50, "asyncio"),
    Row(10_000, 50, "asyncio"),
    Row(1_000, 500, "asyncio"),
    Row(10_000, 500, "asyncio"),
]


def measure(
    databases: Sequence[str], rows: Sequence[Row], seed: int, longest: float | None
) -> Section:
    """Measure each row once on each database; omit rows whose ideal is more than `longest` seconds."""
    measured = []
    for row in rows:
        naps = sleeps(row.jobs, seed)
        least = ideal(naps, row.threads)
        if longest is not None and least > longest:
            progress(
                f"table: {row.jobs:,} jobs on {row.threads} are omitted, {least:.0f} s at best"
            )
            continue
        for alias in databases:
            progress(f"table: {row.jobs:,} jobs on {row.threads}, {alias}, {least:.1f} s at best")
            with on(alias):
                measured.append(_one(alias, row, naps, least))
    return Section("table", "Jobs that sleep 10 to 100 ms", _COLUMNS, measured)


def _one(alias: str, row: Row, naps: Sequence[float], least: float) -> dict[str, Any]:
    empty(alias)
    began = time.perf_counter()
    job = anap if row.concurrency == "asyncio" else nap
    for seconds in naps:
        job.run_later(seconds)
    creation = time.perf_counter() - began
    took = drained(alias, row.threads, row.jobs, row.concurrency)
    return {
        "database": alias,
        "jobs": row.jobs,
        "threads": row.threads,
        "as": row.concurrency,
        "creation_seconds": creation,
        "startup_seconds": took.startup,
        "consumption_seconds": took.consumption,
        "ideal_seconds": least,
        "ratio": took.consumption / least,
    }
