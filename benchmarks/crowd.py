"""The table `crowd`: the rate at which eight processes enqueue on PostgreSQL, with and without notifications.

A notification takes one lock of the whole server at commit: if each job sent one, all enqueuers would wait
for it at their commits.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.environment import ROOT, empty, on
from benchmarks.processes import consumer
from benchmarks.report import Column, Section, Spread, progress

ENQUEUERS = 8

_COLUMNS = [
    Column("notifications", "notifications"),
    Column("processes", "processes", "d"),
    Column("jobs", "jobs", ",d"),
    Column("jobs/s", "jobs_per_second", ",.0f"),
    Column("of none", "ratio", ".3f"),
]

_ENQUEUE = """
import sys
import django
django.setup()
from benchmarks.jobs import noop
noop.run_later(0)
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[1])):
    noop.run_later(number)
"""


def measure(jobs: int, repeat: int) -> Section:
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for number in range(1, repeat + 1):
        for notified in (True, False):
            kind = "with" if notified else "without"
            progress(f"crowd: {jobs:,} jobs {kind} notifications, {number} of {repeat}")
            with on("postgresql"):
                seconds[notified].append(_enqueued(jobs // ENQUEUERS, notified=notified))
    rates = {way: Spread.of([jobs / s for s in each]) for way, each in seconds.items()}
    rows: list[dict[str, Any]] = [
        {
            "notifications": "on" if notified else "off",
            "processes": ENQUEUERS,
            "jobs": jobs,
            "jobs_per_second": rate,
            "ratio": rate.ratio(rates[False]) if notified else None,
        }
        for notified, rate in rates.items()
    ]
    return Section("crowd", "Eight processes enqueue one by one on PostgreSQL", _COLUMNS, rows)


def _enqueued(jobs: int, *, notified: bool) -> float:
    """Return the seconds in which each process enqueues its jobs, beside an idle consumer that is notified."""
    empty("postgresql")
    os.environ["DJJP_BENCH_LISTEN"] = "yes" if notified else "no"
    try:
        # It serves another queue, so it claims none of the jobs.
        with consumer("postgresql", "--queues", "another") as idle:
            idle.wait_until_ready()
            return _race([_started(jobs) for _ in range(ENQUEUERS)])
    finally:
        del os.environ["DJJP_BENCH_LISTEN"]


def _started(jobs: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _ENQUEUE, str(jobs)],
        cwd=ROOT,
        env={**os.environ, "DJJP_BENCH_ALIAS": "postgresql"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _race(processes: Sequence[subprocess.Popen[str]]) -> float:
    for process in processes:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018  (both are pipes)
        process.stdout.readline()
    began = time.perf_counter()
    for process in processes:
        assert process.stdin is not None  # noqa: S101  (as above)
        process.stdin.write("\n")
        process.stdin.close()
    codes = [process.wait() for process in processes]
    took = time.perf_counter() - began
    if any(codes):
        raise RuntimeError(f"an enqueuer failed: exit codes {codes}")
    return took
