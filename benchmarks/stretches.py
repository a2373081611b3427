"""One stretch of the application's writes, beside a queue that is filled and drained or beside other CPU use.

The application, the enqueuer and the burners are processes of `application.py`; a consumer drains the queue.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks import environment
from benchmarks.environment import ROOT
from benchmarks.processes import Consumer, consumer

#: The alias of the application's own database, by the kind of database.
APPLICATIONS = {"sqlite": "default", "postgresql": "application"}


class Beside(NamedTuple):
    """One stretch of time: the milliseconds of the writes, its length, and the CPU use of the queue."""

    writes: list[float]
    seconds: float
    cpu_shares: tuple[float, ...]  # of a core, one for each process of the queue
    jobs: int


def burning(database: str, shares: Sequence[float], seconds: float) -> Beside:
    """Measure the writes while processes use these shares of a core."""
    with ExitStack() as stack:
        stop = stack.enter_context(_writing(database))
        for share in shares:
            stack.enter_context(_beside(database, "burn", f"{min(share, 1.0):.3f}"))
        time.sleep(seconds)
        return Beside(stop(), seconds, (), 0)


def queueing(database: str, alias: str, jobs: int) -> Beside:
    """Measure the writes while one process enqueues jobs and another one runs them, until none is left."""
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
        raise RuntimeError(f"{done} of {jobs} jobs succeeded, so the figure is of no use")
    return Beside(writes, seconds, tuple(c / seconds for c in cpu if c > 0), jobs)


def _unfinished(alias: str) -> bool:
    from django.db import connections

    # The states are literals, because no partial index matches parameters, and this query runs often.
    with connections[alias].cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT 1 FROM djjp_job WHERE state = 'ready')"
            " OR EXISTS (SELECT 1 FROM djjp_job WHERE state = 'running')"
        )
        return bool(cursor.fetchone()[0])


def _wait(process: subprocess.Popen[bytes]) -> float:
    """Wait for the end of the process; return its CPU time."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"enqueueing failed (exit {process.returncode})")
    return usage.ru_utime + usage.ru_stime


def _cpu(running: Consumer) -> float:
    return running.cpu_seconds() or 0.0


def _server_cpu(database: str) -> float:
    """Return the CPU time of all processes of the PostgreSQL server; 0 if it is remote or psutil is missing."""
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
    # The parent counts processes that have ended. The sum includes the writer's process, which is not separate.
    used = whole.user + whole.system + getattr(whole, "children_user", 0.0)
    used += getattr(whole, "children_system", 0.0)
    for child in server.children():
        times = child.cpu_times()
        used += times.user + times.system
    return float(used)


@contextmanager
def _writing(database: str) -> Iterator[Callable[[], list[float]]]:
    """Start the application's writes; yield a function that stops them and returns their milliseconds."""
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
            "DJJP_BENCH_WRITES": APPLICATIONS[database],
            "DJJP_BENCH_ALIAS": alias or database,
        },
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
