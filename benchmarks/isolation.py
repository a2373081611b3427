"""`python -m benchmarks.isolation`: what the queue costs the application's own small writes.

A process writes one row in its own transaction about 200 times a second, in the application's database. Beside
it nothing happens; or a queue is filled and drained, on a database of its own or in the application's; or as
much of the processor is burnt without a queue, for that alone makes a write on a busy machine slower.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import environment, report
from benchmarks.environment import ROOT
from benchmarks.options import count, some_of
from benchmarks.processes import Consumer, consumer
from benchmarks.report import Column, Section, Spread, progress

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


class Beside(NamedTuple):
    """What one stretch of time was like: the writes' milliseconds, its length, and the queue's use of it."""

    writes: list[float]
    seconds: float
    cpu_shares: tuple[float, ...]  # of a core, one for each process of the queue
    jobs: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the application's writes beside a queue, and beside none."""
    options = _parser().parse_args(arguments)
    os.environ["DJJP_BENCH_APPLICATION"] = "1"
    with environment.made(options.databases):
        facts = environment.facts()
        sections = [_measure(options)]
        if options.json:
            print(report.json_of(facts, sections))
        else:
            print(f"{report.header_of(facts)}\n\n{report.text_of(sections[0])}")


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
    """What is measured, in order: the control burns what the queue has just used."""
    shared = _APPLICATIONS[database]

    def control() -> Beside:
        last = taken[OWN][-1]
        return _burning(database, last.cpu_shares, last.seconds)

    arms: dict[str, Callable[[], Beside]] = {
        IDLE: lambda: _burning(database, (), seconds),
        OWN: lambda: _queueing(database, database, jobs),
        CONTROL: control,
        SHARED: lambda: _queueing(database, shared, jobs),
    }
    if database == "postgresql":

        def old(alias: str) -> Callable[[], Beside]:
            def run() -> Beside:
                with _old_snapshot(shared):
                    return _queueing(database, alias, jobs)

            return run

        arms |= {OLD_OWN: old(database), OLD_SHARED: old(shared)}
    return arms


#: The alias of the application's own database, by the kind of database.
_APPLICATIONS = {"sqlite": "default", "postgresql": "application"}


def _make(database: str) -> None:
    """The application's table, and the queue's in the application's database too."""
    from django.core.management import call_command
    from django.db import connections

    alias = _APPLICATIONS[database]
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
    """A transaction in the application's database that sees it as it is now, however long that is ago."""
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


def _burning(database: str, shares: Sequence[float], seconds: float) -> Beside:
    with ExitStack() as stack:
        stop = stack.enter_context(_writing(database))
        for share in shares:
            stack.enter_context(_beside(database, "burn", f"{min(share, 1.0):.3f}"))
        time.sleep(seconds)
        return Beside(stop(), seconds, (), 0)


def _queueing(database: str, alias: str, jobs: int) -> Beside:
    """Jobs enqueued by one process and run by another meanwhile, until none is left."""
    from djjp.models import Job, State

    environment.empty(alias)
    with environment.on(alias), consumer(alias, "--concurrency-limit", "10") as running:
        running.wait_until_ready()
        used, servers = _cpu(running), _server_cpu(database)
        with _writing(database) as stop:
            began = time.monotonic()
            with _beside(database, "enqueue", str(jobs), alias) as enqueuer:
                enqueuing = _wait(enqueuer)
            while _unfinished(alias):
                time.sleep(0.02)
            seconds = time.monotonic() - began
            writes = stop()
        cpu = [enqueuing, _cpu(running) - used, _server_cpu(database) - servers]
    done = Job.objects.using(alias).filter(state=State.SUCCEEDED).count()
    if done != jobs:
        raise RuntimeError(f"{done} of {jobs} jobs succeeded: this measured something else")
    return Beside(writes, seconds, tuple(c / seconds for c in cpu if c > 0), jobs)


def _unfinished(alias: str) -> bool:
    from django.db import connections

    # The states stand in the text, for parameters would fit no partial index: this is asked often.
    with connections[alias].cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT 1 FROM djjp_job WHERE state = 'ready')"
            " OR EXISTS (SELECT 1 FROM djjp_job WHERE state = 'running')"
        )
        return bool(cursor.fetchone()[0])


def _wait(process: subprocess.Popen[bytes]) -> float:
    """Wait for its end; returns the seconds that it used of the processor."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"enqueueing failed (exit {process.returncode})")
    return usage.ru_utime + usage.ru_stime


def _cpu(running: Consumer) -> float:
    return running.cpu_seconds() or 0.0


def _server_cpu(database: str) -> float:
    """Seconds that all processes of the PostgreSQL server have used, where they can be seen from here."""
    if database != "postgresql":
        return 0.0
    try:
        import psutil  # type: ignore[import-untyped]  # its stubs are a package of their own
    except ImportError:
        return 0.0
    from django.db import connections

    with connections["postgresql"].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        try:
            server = psutil.Process(cursor.fetchone()[0]).parent()
        except psutil.Error:
            return 0.0  # on another machine
    whole = server.cpu_times()
    # Of those that have ended their parent knows; so do the writer's, which is not told apart.
    used = whole.user + whole.system + getattr(whole, "children_user", 0.0)
    used += getattr(whole, "children_system", 0.0)
    for child in server.children():
        times = child.cpu_times()
        used += times.user + times.system
    return float(used)


@contextmanager
def _writing(database: str) -> Iterator[Callable[[], list[float]]]:
    """The application writing; call what this gives to stop it and have the milliseconds."""
    path = Path(os.environ["DJJP_BENCH_HOME"]) / f"writes-{time.time_ns()}.json"
    with _beside(database, "write", str(path)) as process:
        until = time.monotonic() + 60
        while not path.with_suffix(".ready").exists():
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the application did not start (exit {process.poll()})")
            time.sleep(0.01)

        def stop() -> list[float]:
            process.send_signal(signal.SIGTERM)
            if process.wait(60) != 0:
                raise RuntimeError(f"the application failed (exit {process.returncode})")
            writes: list[float] = json.loads(path.read_text())
            return writes

        yield stop


@contextmanager
def _beside(
    database: str, act: str, value: str, alias: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.application", act, value],
        cwd=ROOT,
        env={
            **os.environ,
            "DJJP_BENCH_WRITES": _APPLICATIONS[database],
            "DJJP_BENCH_ALIAS": alias or database,
        },
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


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
    add("--databases", type=some_of(databases), default=databases, help=f"of {','.join(databases)}")
    add("--jobs", type=count, default=50_000, help="jobs that are enqueued and drained (50000)")
    add("--seconds", type=float, default=10.0, help="how long writes are measured idle (10)")
    add("--repeat", type=count, default=3, help="times that each is measured (3)")
    add("--json", action="store_true", help="print JSON only")
    return parser


if __name__ == "__main__":
    main()
