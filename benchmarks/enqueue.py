"""The table `enqueue`: the rate at which one process enqueues, next to bare inserts of the same rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

from django.db import connections

from benchmarks.bare import INSERT, bare, rows_for
from benchmarks.environment import empty, on
from benchmarks.jobs import noop
from benchmarks.report import Column, Section, Spread, progress
from djjp import run_many

P = ParamSpec("P")

_COLUMNS = [
    Column("database", "database"),
    Column("way", "way"),
    Column("jobs", "jobs", ",d"),
    Column("jobs/s", "jobs_per_second", ",.0f"),
    Column("of bare", "ratio", ".3f"),
]


def measure(databases: Sequence[str], jobs: int, repeat: int) -> Section:
    rows: list[dict[str, Any]] = []
    for alias in databases:
        seconds: dict[str, list[float]] = {}
        for number in range(1, repeat + 1):
            progress(f"enqueue: {jobs:,} jobs, {alias}, {number} of {repeat}")
            with on(alias):
                for way, took in _round(alias, jobs).items():
                    seconds.setdefault(way, []).append(took)
        rates = {way: Spread.of([jobs / s for s in each]) for way, each in seconds.items()}
        for way, base in _BASES.items():
            rows.append(
                {
                    "database": alias,
                    "way": way,
                    "jobs": jobs,
                    "jobs_per_second": rates[way],
                    "ratio": None if way == base else rates[way].ratio(rates[base]),
                }
            )
    return Section("enqueue", "Enqueue from one process, without a consumer", _COLUMNS, rows)


_ONE, _ONE_DJANGO, _ONE_BARE = "run_later", "one by one, Django's cursor", "one by one, bare driver"
_MANY, _MANY_BARE = "run_many", "in bulk, bare driver"
#: The ways to enqueue, in the order of the table, each with the bare way that it is compared with.
_BASES = {
    _ONE: _ONE_BARE,
    _ONE_DJANGO: _ONE_BARE,
    _ONE_BARE: _ONE_BARE,
    _MANY: _MANY_BARE,
    _MANY_BARE: _MANY_BARE,
}


def _round(alias: str, jobs: int) -> dict[str, float]:
    """Return the seconds of each way; each starts with an empty table."""
    with bare(alias) as driver:
        return {
            _ONE: _timed(alias, _run_later, jobs),
            _ONE_DJANGO: _timed(alias, _cursor, alias, rows_for(alias, jobs)),
            _ONE_BARE: _timed(alias, driver.insert, rows_for(alias, jobs)),
            _MANY: _timed(alias, _run_many, jobs),
            _MANY_BARE: _timed(alias, driver.insert_many, rows_for(alias, jobs)),
        }


def _timed(alias: str, work: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> float:
    empty(alias)
    began = time.perf_counter()
    work(*args, **kwargs)
    return time.perf_counter() - began


def _run_later(jobs: int) -> None:
    for number in range(jobs):
        noop.run_later(number)


def _run_many(jobs: int) -> None:
    run_many(noop.bind(number) for number in range(jobs))


def _cursor(alias: str, rows: Sequence[tuple[Any, ...]]) -> None:
    for row in rows:
        with connections[alias].cursor() as cursor:
            cursor.execute(INSERT, row)
