"""The table `totals`: what it costs to count each end of a job, next to consumers that count nothing.

The two sides alternate, drain by drain and turn by turn. On a busy machine the CPU time shows more than the
duration.
"""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.drain import THREADS
from benchmarks.environment import empty, on
from benchmarks.jobs import MANY, noop, uncounted
from benchmarks.processes import drained
from benchmarks.report import Column, Section, Spread, progress
from djjp import run_many
from djjp.engine import Claimed, Engine, Outcome, current
from djjp.engine.totals import Totals
from djjp.models import State

_COLUMNS = [
    Column("database", "database"),
    Column("what", "what"),
    Column("µs without", "without", ",.1f"),
    Column("µs with", "with", ",.1f"),
    Column("with/without", "ratio", ".3f"),
    Column("CPU µs without", "cpu_without", ",.1f"),
    Column("CPU µs with", "cpu_with", ",.1f"),
    Column("CPU with/without", "cpu_ratio", ".3f"),
]

#: The seconds, and the CPU seconds, of one job or turn.
Cost = tuple[float, float]


def measure(databases: Sequence[str], jobs: int, repeat: int) -> Section:
    rows = []
    for alias in databases:
        with on(alias):
            for names in (1, 1000):
                costs: dict[bool, list[Cost]] = {False: [], True: []}
                for number in range(1, repeat + 1):
                    progress(
                        f"totals: {jobs:,} jobs of {names:,} names, {alias}, {number} of {repeat}"
                    )
                    for counts in (False, True):
                        costs[counts].append(_drain(alias, jobs, names, counts=counts))
                rows.append(_row(alias, f"a job of a drain, {names:,} names", costs))
            progress(f"totals: turns of one job, {alias}")
            rows.append(_row(alias, "a turn of one job", _turns(alias, jobs // 10, repeat)))
    return Section("totals", "The cost of totals: with them and without", _COLUMNS, rows)


def _row(alias: str, what: str, costs: dict[bool, list[Cost]]) -> dict[str, Any]:
    (without, cpu_without), (with_them, cpu_with) = (
        [Spread.of([cost[at] * 1e6 for cost in costs[counts]]) for at in (0, 1)]
        for counts in (False, True)
    )
    return {
        "database": alias,
        "what": what,
        "without": without,
        "with": with_them,
        "ratio": with_them.ratio(without),
        "cpu_without": cpu_without,
        "cpu_with": cpu_with,
        "cpu_ratio": cpu_with.ratio(cpu_without),
    }


def _drain(alias: str, jobs: int, names: int, *, counts: bool) -> Cost:
    empty(alias)
    chosen = [noop] if names == 1 else MANY[:names]
    run_many(chosen[number * 7919 % names].bind(number) for number in range(jobs))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with _counting(counts):
        took = drained(alias, THREADS, jobs)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return took.consumption / jobs, cpu / jobs


@contextmanager
def _counting(counts: bool) -> Iterator[None]:
    """Start consumers that count ends, or do not."""
    os.environ["DJJP_BENCH_TOTALS"] = "yes" if counts else "no"
    try:
        yield
    finally:
        del os.environ["DJJP_BENCH_TOTALS"]


def _turns(alias: str, turns: int, repeat: int) -> dict[bool, list[Cost]]:
    """Return the median costs of turns that finish one job and claim the next."""
    costs: dict[bool, list[Cost]] = {False: [], True: []}
    ways: dict[bool, Callable[..., Any]] = {False: uncounted, True: Totals.entry_of}
    engine = current()
    for _ in range(repeat):
        empty(alias)
        run_many(noop.bind(number) for number in range(2 * turns + 1))
        taken: dict[bool, list[Cost]] = {False: [], True: []}
        [job] = _turn(engine, None)
        for number in range(2 * turns):
            counts = bool(number % 2)
            Totals.entry_of = ways[counts]  # type: ignore[method-assign]  # in this process only
            began, cpu = time.perf_counter(), time.process_time()
            [job] = _turn(engine, job)
            taken[counts].append((time.perf_counter() - began, time.process_time() - cpu))
        Totals.entry_of = ways[True]  # type: ignore[method-assign]
        for counts, each in taken.items():
            wall, busy = zip(*each, strict=True)
            costs[counts].append((statistics.median(wall), statistics.median(busy)))
    return costs


def _turn(engine: Engine, ended: Claimed | None) -> list[Claimed]:
    now = time.time()
    with engine.db.transaction():
        if ended is not None:
            engine.jobs.finish("bench", [Outcome(ended, State.SUCCEEDED, now, now + 1e-3, "null")])
        return engine.jobs.claim("bench", 1, now)
