"""The table `drain`: the rate at which one consumer runs jobs that do nothing, next to the bare statements."""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks.bare import bare
from benchmarks.environment import empty, on
from benchmarks.jobs import noop
from benchmarks.processes import Drained, drained
from benchmarks.report import Column, Section, Spread, progress
from djjp import run_many

THREADS = 10
#: The number of jobs that a bare transaction finishes and claims.
BATCH = 200

_COLUMNS = [
    Column("database", "database"),
    Column("jobs", "jobs", ",d"),
    Column("threads", "threads", "d"),
    Column("start-up s", "startup_seconds", ".3f"),
    Column("jobs/s", "jobs_per_second", ",.0f"),
    Column("bare jobs/s", "bare_jobs_per_second", ",.0f"),
    Column("djjp/bare", "ratio", ".3f"),
]


def measure(databases: Sequence[str], jobs: int, repeat: int) -> Section:
    rows = []
    for alias in databases:
        runs, bare_seconds = [], []
        for number in range(1, repeat + 1):
            progress(f"drain: {jobs:,} jobs, {alias}, {number} of {repeat}")
            with on(alias):
                runs.append(_consumer(alias, jobs))
                bare_seconds.append(_bare(alias, jobs))
        rate = Spread.of([jobs / run.consumption for run in runs])
        bare_rate = Spread.of([jobs / seconds for seconds in bare_seconds])
        rows.append(
            {
                "database": alias,
                "jobs": jobs,
                "threads": THREADS,
                "startup_seconds": Spread.of([run.startup for run in runs]),
                "jobs_per_second": rate,
                "bare_jobs_per_second": bare_rate,
                "ratio": rate.ratio(bare_rate),
            }
        )
    return Section("drain", "Drain of jobs that do nothing, one consumer process", _COLUMNS, rows)


def _fill(alias: str, jobs: int) -> None:
    empty(alias)
    run_many(noop.bind(number) for number in range(jobs))


def _consumer(alias: str, jobs: int) -> Drained:
    _fill(alias, jobs)
    return drained(alias, THREADS, jobs)


def _bare(alias: str, jobs: int) -> float:
    _fill(alias, jobs)
    with bare(alias) as driver:
        began = time.perf_counter()
        done = driver.drain(BATCH)
        took = time.perf_counter() - began
    if done != jobs:
        raise RuntimeError(f"the bare statements ran {done} of {jobs} jobs")
    return took
