"""`python -m benchmarks.isolation`: the effect of the queue on the application's own small writes.

A process writes one row in its own transaction about 200 times a second, in the application's database. The
writes are measured alone; while a queue is filled and drained, on its own database or in the application's; and
as a control while the same amount of CPU is used without a queue, because that alone slows a write.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from benchmarks import environment, report
from benchmarks.options import count, some_of
from benchmarks.report import Column, Section, Spread, progress
from benchmarks.stretches import APPLICATIONS, Beside, burning, queueing

_COLUMNS = [
    Column("database", "database"),
    Column("beside the writes", "arm"),
    Column("writes", "writes", ",d"),
    Column("p50 ms", "p50_ms", ".2f"),
    Column("p99 ms", "p99_ms", ".2f"),
    Column("p99 : control", "to_control", ".2f"),
    Column("p99 : idle", "to_idle", ".2f"),
    Column("queue jobs/s", "jobs_per_second", ",.0f"),
]

IDLE, OWN, CONTROL, SHARED = (
    "nothing",
    "the queue, on its own database",
    "the same CPU, no queue",
    "the queue, in the application's database",
)
OLD_OWN, OLD_SHARED = (f"{arm}; an old snapshot open" for arm in (OWN, SHARED))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the application's writes with and without a queue beside them."""
    options = _parser().parse_args(arguments)
    os.environ["DJJP_BENCH_APPLICATION"] = "1"
    with environment.made(options.databases):
        report.publish(environment.facts(), [_measure(options)], as_json=options.json)


def _measure(options: argparse.Namespace) -> Section:
    rows: list[dict[str, Any]] = []
    for database in options.databases:
        _make(database)
        taken: dict[str, list[Beside]] = {}
        for number in range(1, options.repeat + 1):
            for arm, run in _arms(database, options.jobs, options.seconds, taken).items():
                progress(f"isolation: {database}, {arm}, {number} of {options.repeat}")
                taken.setdefault(arm, []).append(run())
        rows += [_row(database, arm, taken) for arm in taken]
    title = f"The application's writes while {options.jobs:,} jobs are enqueued and drained"
    return Section("isolation", title, _COLUMNS, rows)


def _arms(
    database: str, jobs: int, seconds: float, taken: dict[str, list[Beside]]
) -> dict[str, Callable[[], Beside]]:
    """Return the measurements in order; the control uses the CPU time that the queue has just used."""
    shared = APPLICATIONS[database]

    def control() -> Beside:
        last = taken[OWN][-1]
        return burning(database, last.cpu_shares, last.seconds)

    arms: dict[str, Callable[[], Beside]] = {
        IDLE: lambda: burning(database, (), seconds),
        OWN: lambda: queueing(database, database, jobs),
        CONTROL: control,
        SHARED: lambda: queueing(database, shared, jobs),
    }
    if database == "postgresql":

        def old(alias: str) -> Callable[[], Beside]:
            def run() -> Beside:
                with _old_snapshot(shared):
                    return queueing(database, alias, jobs)

            return run

        arms |= {OLD_OWN: old(database), OLD_SHARED: old(shared)}
    return arms


def _make(database: str) -> None:
    """Create the application's table, and the queue's tables in the application's database too."""
    from django.core.management import call_command
    from django.db import connections

    alias = APPLICATIONS[database]
    with environment.on(alias):
        call_command("migrate", database=alias, verbosity=0)
    key = "bigserial" if database == "postgresql" else "integer"
    with connections[alias].cursor() as cursor:
        cursor.execute(
            f"CREATE TABLE bench_application (id {key} PRIMARY KEY, number integer, body text)"
        )
        for number in range(100):
            cursor.execute(
                "INSERT INTO bench_application (number, body) VALUES (%s, %s)", [number, "x" * 100]
            )


@contextmanager
def _old_snapshot(alias: str) -> Iterator[None]:
    """Hold a transaction open in the application's database, with a snapshot of its present state."""
    import psycopg
    from django.db import connections

    with closing(psycopg.connect(**_parameters(connections[alias]))) as server:
        server.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        server.execute("SELECT count(*) FROM bench_application")
        yield


def _parameters(connection: Any) -> dict[str, Any]:
    given: dict[str, Any] = connection.get_connection_params()
    return {
        key: given[key] for key in ("dbname", "user", "password", "host", "port") if key in given
    }


def _row(database: str, arm: str, taken: dict[str, list[Beside]]) -> dict[str, Any]:
    runs = taken[arm]
    p99 = Spread.of([_percentile(run.writes, 99) for run in runs])
    control = Spread.of([_percentile(run.writes, 99) for run in taken[CONTROL]])
    idle = Spread.of([_percentile(run.writes, 99) for run in taken[IDLE]])
    return {
        "database": database,
        "arm": arm,
        "writes": sum(len(run.writes) for run in runs),
        "p50_ms": Spread.of([statistics.median(run.writes) for run in runs]),
        "p99_ms": p99,
        "to_control": None if arm in (IDLE, CONTROL) else p99.ratio(control),
        "to_idle": None if arm == IDLE else p99.ratio(idle),
        "jobs_per_second": Spread.of([run.jobs / run.seconds for run in runs])
        if runs[0].jobs
        else None,
    }


def _percentile(values: Sequence[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.isolation", description=main.__doc__
    )
    add = parser.add_argument
    databases = environment.DATABASES
    add(
        "--databases",
        type=some_of(databases),
        default=databases,
        help=f"some of {','.join(databases)}",
    )
    add("--jobs", type=count, default=50_000, help="jobs to enqueue and drain (50000)")
    add(
        "--seconds",
        type=float,
        default=10.0,
        help="seconds for which the writes are measured alone (10)",
    )
    add("--repeat", type=count, default=3, help="repeats of each measurement (3)")
    add("--json", action="store_true", help="print JSON, and the tables to stderr")
    return parser


if __name__ == "__main__":
    main()
