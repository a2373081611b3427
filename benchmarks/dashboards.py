"""The table `dashboards`: a consumer drains a queue while 50 browsers refresh the dashboard, and while none does.

`python -m benchmarks.dashboards ALIAS NUMBER` is the web process of the browsers: threads that fetch the fragment
of the dashboard every five seconds until SIGTERM.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks import environment
from benchmarks.environment import ROOT
from benchmarks.pages import PREFIX, reader
from benchmarks.processes import drained
from benchmarks.report import Column, Spread, progress

COLUMNS = [
    Column("database", "database"),
    Column("dashboards", "dashboards", "d"),
    Column("refreshes/s", "refreshes_per_second", ".1f"),
    Column("statements/s", "statements_per_second", ".1f"),
    Column("refresh ms", "refresh_ms", ".1f"),
    Column("web CPU %", "web_cpu_percent", ".0f"),
    Column("jobs/s without", "without", ",.0f"),
    Column("jobs/s with", "beside", ",.0f"),
    Column("ratio", "ratio", ".3f"),
    Column("CPU µs a job without", "cpu_without", ",.1f"),
    Column("with", "cpu_beside", ",.1f"),
]
#: Seconds between the refreshes of one dashboard.
EVERY = 5.0
THREADS = 10


def measure(alias: str, dashboards: int, jobs: int, repeat: int) -> dict[str, Any]:
    """Return the row of one database: pairs of drains, without dashboards and beside them.

    The web process takes its CPU time from a machine with few cores, whatever it reads. The consumer's own CPU
    time for a job shows if its work became more.
    """
    without, beside, seen = [], [], []
    cpu: dict[bool, list[float]] = {False: [], True: []}
    for number in range(1, repeat + 1):
        progress(f"dashboards: {jobs:,} jobs, {alias}, {number} of {repeat}")
        # The one that comes first changes, because the second drain finds warmer caches.
        for is_beside in (number % 2 == 0, number % 2 == 1):
            _fill(alias, jobs)
            if is_beside:
                with opened(alias, dashboards) as figures:
                    beside.append(_rate(alias, jobs, cpu[True]))
                seen.append(figures)
            else:
                without.append(_rate(alias, jobs, cpu[False]))
    spreads = Spread.of(without), Spread.of(beside)
    return {
        "database": alias,
        "dashboards": dashboards,
        **{key: statistics.median(each[key] for each in seen) for key in seen[0]},
        "without": spreads[0],
        "beside": spreads[1],
        "ratio": spreads[1].ratio(spreads[0]),
        "cpu_without": Spread.of(cpu[False]),
        "cpu_beside": Spread.of(cpu[True]),
    }


def _rate(alias: str, jobs: int, cpu: list[float]) -> float:
    """Drain the queue; return the jobs in a second, and note the consumer's CPU time for one, in µs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = drained(alias, THREADS, jobs)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    cpu.append(seconds / jobs * 1e6)
    return jobs / took.consumption


def _fill(alias: str, jobs: int) -> None:
    from benchmarks.jobs import noop
    from djjp import run_many

    environment.empty(alias)
    run_many(noop.bind(number) for number in range(jobs))


@contextmanager
def opened(alias: str, dashboards: int) -> Iterator[dict[str, float]]:
    """Open dashboards in a process of their own; the figures that are yielded are there after the block."""
    figures: dict[str, float] = {}
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.dashboards", alias, str(dashboards)],
        cwd=ROOT,
        env={**os.environ, "DJJP_BENCH_ALIAS": alias},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None  # noqa: S101  (a pipe, as above)
    try:
        process.stdout.readline()  # every dashboard is open
        yield figures
        process.send_signal(signal.SIGTERM)
        figures |= json.loads(process.communicate(timeout=60)[0])
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def serve(alias: str, dashboards: int) -> None:
    """Refresh dashboards until SIGTERM, and print the figures as JSON."""
    import django
    from django.db.backends.signals import connection_created

    django.setup()
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
    sent, took = [0], []

    def count(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        sent[0] += 1
        return execute(sql, params, many, context)

    def connected(connection: Any, **_: Any) -> None:
        if connection.alias == alias and count not in connection.execute_wrappers:
            connection.execute_wrappers.append(count)

    connection_created.connect(connected)
    client = reader()
    client.get(PREFIX)
    address = _fragment()

    def dashboard(number: int) -> None:
        ended.wait(EVERY * number / dashboards)
        while not ended.is_set():
            began = time.perf_counter()
            answer = client.get(address, headers={"X-Djjp-Fragment": "1"})
            took.append((time.perf_counter() - began) * 1000)
            if answer.status_code != 200:
                raise RuntimeError(f"{address} answered {answer.status_code}")
            ended.wait(max(0.0, EVERY - (time.perf_counter() - began)))

    threads = [threading.Thread(target=dashboard, args=[number]) for number in range(dashboards)]
    sent[0] = 0
    began, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    print("open", flush=True)
    ended.wait()
    seconds = time.perf_counter() - began
    for thread in threads:
        thread.join()
    figures = {
        "refreshes_per_second": len(took) / seconds,
        "statements_per_second": sent[0] / seconds,
        "refresh_ms": statistics.median(took),
        "web_cpu_percent": 100 * (time.process_time() - cpu) / seconds,
    }
    print(json.dumps(figures))


def _fragment() -> str:
    from django.urls import reverse

    return reverse("admin:djjp_job_dashboard")


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
