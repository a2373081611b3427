"""The table `together`: the rate at which two consumer processes run jobs that do nothing, next to one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

from benchmarks.drain import THREADS
from benchmarks.environment import empty, on
from benchmarks.jobs import noop
from benchmarks.processes import consumer
from benchmarks.report import Column, Section, Spread, progress
from djjp import run_many

TOGETHER = 2

_COLUMNS = [
    Column("database", "database"),
    Column("consumers", "consumers", "d"),
    Column("jobs", "jobs", ",d"),
    Column("jobs/s", "jobs_per_second", ",.0f"),
    Column("of one", "ratio", ".3f"),
]


def measure(databases: Sequence[str], jobs: int, repeat: int) -> Section:
    rows: list[dict[str, Any]] = []
    for alias in databases:
        seconds: dict[int, list[float]] = {1: [], TOGETHER: []}
        for number in range(1, repeat + 1):
            for consumers, took in seconds.items():
                progress(f"together: {consumers} on {alias}, {number} of {repeat}")
                with on(alias):
                    took.append(_drained(alias, jobs, consumers))
        rates = {n: Spread.of([jobs / s for s in took]) for n, took in seconds.items()}
        rows += [
            {
                "database": alias,
                "consumers": consumers,
                "jobs": jobs,
                "jobs_per_second": rate,
                "ratio": None if consumers == 1 else rate.ratio(rates[1]),
            }
            for consumers, rate in rates.items()
        ]
    return Section("together", "The same drain, by one consumer process and by two", _COLUMNS, rows)


def _drained(alias: str, jobs: int, consumers: int) -> float:
    """Return the seconds from the first job's start to the last job's end; all consumers are ready before."""
    from django.db.models import Max, Min

    from djjp.models import Job, State
    from djjp.queues import pause, resume

    empty(alias)
    pause("default")
    run_many(noop.bind(number) for number in range(jobs))
    with ExitStack() as stack:
        started = [
            stack.enter_context(consumer(alias, "--concurrency-limit", str(THREADS)))
            for _ in range(consumers)
        ]
        for each in started:
            each.wait_until_ready()
        resume("default")
        while Job.objects.filter(state__in=[State.READY, State.RUNNING]).exists():
            if any(each.process.poll() is not None for each in started):
                raise RuntimeError("a consumer has ended before the last job")
            time.sleep(0.05)
    done = Job.objects.filter(state=State.SUCCEEDED)
    if (count := done.count()) != jobs:
        raise RuntimeError(f"{count} of {jobs} jobs succeeded, so the figure is of no use")
    span = done.aggregate(first=Min("started_at"), last=Max("finished_at"))
    took: timedelta = span["last"] - span["first"]
    return took.total_seconds()
