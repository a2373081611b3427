"""Consumer processes: when each was ready and when it had drained the queue.

A consumer writes its first line into the log when it is set up, just before it claims, and its last line when
the last outcome is committed. Only the times of the lines are read, not their text.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.environment import ROOT

# Seconds after which a consumer without a line in its log counts as failed.
_COMES_UP_WITHIN = 60.0


class Drained(NamedTuple):
    """Seconds that a consumer took to start, and then to run all jobs."""

    startup: float
    consumption: float


class Consumer:
    """One `start_consumer` process on the queue of one database."""

    def __init__(self, alias: str, *options: str) -> None:
        self.started_at = time.time()
        self._log = Path(os.environ["DJJP_BENCH_HOME"]) / f"consumer-{time.time_ns()}.log"
        settings = {"DJJP_BENCH_ALIAS": alias, "DJJP_BENCH_LOG": str(self._log)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "django", "start_consumer", *options],
            cwd=ROOT,
            env={**os.environ, **settings},
            stdout=subprocess.DEVNULL,
        )

    def wait_until_ready(self) -> None:
        """Wait until the consumer is set up."""
        until = time.monotonic() + _COMES_UP_WITHIN
        while not self._lines():
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the consumer did not start (exit {self.process.poll()})")
            time.sleep(0.01)

    def wait_until_drained(self) -> Drained:
        """Wait until the consumer has ended; return its times."""
        code = self.process.wait()
        lines = self._lines()
        if code != 0 or len(lines) < 2:
            raise RuntimeError("\n".join([f"the consumer failed (exit {code})", *lines]))
        first, last = (float(line.partition(" ")[0]) for line in (lines[0], lines[-1]))
        return Drained(first - self.started_at, last - first)

    def cpu_seconds(self) -> float | None:
        """Return the CPU time that the process has used so far; None without psutil."""
        try:
            import psutil  # type: ignore[import-untyped]  # its stubs are a package of their own
        except ImportError:
            return None
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def end(self) -> None:
        """Stop the process if it has not ended."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _lines(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []


@contextmanager
def consumer(alias: str, *options: str) -> Iterator[Consumer]:
    """Start a consumer process, and stop it at the end of the block."""
    started = Consumer(alias, *options)
    try:
        yield started
    finally:
        started.end()


def drained(alias: str, threads: int, jobs: int, concurrency: str = "threads") -> Drained:
    """Have a consumer process run all enqueued jobs, and check that they succeeded.

    Raises:
        RuntimeError: the consumer failed, or jobs did not succeed.
    """
    from djjp.models import Job, State

    limit = ["--concurrency", concurrency, "--concurrency-limit", str(threads)]
    with consumer(alias, "--drain", *limit) as process:
        took = process.wait_until_drained()
    done = Job.objects.filter(state=State.SUCCEEDED).count()
    if done != jobs:
        raise RuntimeError(f"{done} of {jobs} jobs succeeded, so the figure is of no use")
    return took
