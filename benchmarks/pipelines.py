"""The table `pipelines`: the rate at which one consumer runs jobs of pipelines, next to independent jobs."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.drain import THREADS
from benchmarks.environment import empty, on
from benchmarks.jobs import noop
from benchmarks.processes import drained
from benchmarks.report import Column, Section, Spread, progress
from djjp import chain, group, run_many

#: The jobs in the group of each pipeline; one job comes before the group, and one after it.
MEMBERS = 10
JOBS = MEMBERS + 2

_COLUMNS = [
    Column("database", "database"),
    Column("pipelines", "pipelines", ",d"),
    Column("jobs", "jobs", ",d"),
    Column("jobs/s", "jobs_per_second", ",.0f"),
    Column("plain jobs/s", "plain_jobs_per_second", ",.0f"),
    Column("pipelines/plain", "ratio", ".3f"),
]


def measure(databases: Sequence[str], pipelines: int, repeat: int) -> Section:
    jobs, rows = pipelines * JOBS, []
    for alias in databases:
        spent: list[float] = []
        plain: list[float] = []
        for number in range(1, repeat + 1):
            progress(f"pipelines: {pipelines:,} of {JOBS} jobs, {alias}, {number} of {repeat}")
            with on(alias):
                empty(alias)
                for each in range(pipelines):
                    members = [noop.bind_alone(each)] * MEMBERS
                    chain(noop.bind(each), group(*members), noop.bind()).run_later()
                spent.append(drained(alias, THREADS, jobs).consumption)
                empty(alias)
                run_many(noop.bind(each) for each in range(jobs))
                plain.append(drained(alias, THREADS, jobs).consumption)
        rate = Spread.of([jobs / seconds for seconds in spent])
        plain_rate = Spread.of([jobs / seconds for seconds in plain])
        rows.append(
            {
                "database": alias,
                "pipelines": pipelines,
                "jobs": jobs,
                "jobs_per_second": rate,
                "plain_jobs_per_second": plain_rate,
                "ratio": rate.ratio(plain_rate),
            }
        )
    title = f"Drain of pipelines of 1, {MEMBERS} and 1 jobs, one consumer process"
    return Section("pipelines", title, _COLUMNS, rows)
