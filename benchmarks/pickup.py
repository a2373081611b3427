"""The table `pickup`: the time until an idle consumer starts another process's job, and its CPU use when idle."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.environment import empty, on
from benchmarks.jobs import stamp
from benchmarks.processes import Consumer, consumer
from benchmarks.report import Column, Section, Spread, progress
from djjp.jobs import JobHandle

THREADS = 10
# Seconds that a consumer gets to become idle after its last work, before its CPU use is measured.
_SETTLES = 1.0
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.020, 0.120

_COLUMNS = [
    Column("database", "database"),
    Column("samples", "samples", ",d"),
    Column("p50 ms", "p50_ms", ".2f"),
    Column("p90 ms", "p90_ms", ".2f"),
    Column("p99 ms", "p99_ms", ".2f"),
    Column("after commit p50 ms", "after_commit_p50_ms", ".2f"),
    Column("idle % of a core", "idle_cpu_percent", ".2f"),
]


class Sample(NamedTuple):
    """Milliseconds until the job's function ran: from before the enqueue, and from its return."""

    whole: float
    after_commit: float


def measure(
    databases: Sequence[str], samples: int, idle_seconds: float, repeat: int, seed: int
) -> Section:
    rows = []
    for alias in databases:
        runs: list[list[Sample]] = []
        idle: list[float] = []
        for number in range(1, repeat + 1):
            progress(f"pickup: {samples} samples, {alias}, {number} of {repeat}")
            with on(alias):
                empty(alias)
                options = ("--concurrency-limit", str(THREADS))
                with consumer(alias, *options) as process:
                    process.wait_until_ready()
                    stamp.run_later().join(timeout=60)
                    used = _idle_percent(process, idle_seconds)
                    idle += [] if used is None else [used]
                    runs.append(_samples(samples, random.Random(seed + number)))
        whole = [[sample.whole for sample in run] for run in runs]
        rows.append(
            {
                "database": alias,
                "samples": samples,
                "p50_ms": Spread.of([statistics.median(run) for run in whole]),
                "p90_ms": Spread.of([_percentile(run, 0.90) for run in whole]),
                "p99_ms": Spread.of([_percentile(run, 0.99) for run in whole]),
                "after_commit_p50_ms": Spread.of(
                    [statistics.median(sample.after_commit for sample in run) for run in runs]
                ),
                "idle_cpu_percent": Spread.of(idle) if idle else None,
            }
        )
    return Section("pickup", "Pickup by one idle consumer process", _COLUMNS, rows)


def _idle_percent(process: Consumer, seconds: float) -> float | None:
    time.sleep(_SETTLES)
    before, began = process.cpu_seconds(), time.perf_counter()
    time.sleep(seconds)
    after, took = process.cpu_seconds(), time.perf_counter() - began
    return None if before is None or after is None else 100 * (after - before) / took


def _samples(count: int, dice: random.Random) -> list[Sample]:
    enqueued: list[tuple[float, float, JobHandle]] = []
    for _ in range(count):
        time.sleep(dice.uniform(_SHORTEST_PAUSE, _LONGEST_PAUSE))
        before = time.time()
        handle = stamp.run_later()
        enqueued.append((before, time.time(), handle))
    # The results are read at the end, because reads in between would keep the database busy.
    samples = []
    for before, committed, handle in enqueued:
        ran = handle.join(timeout=60)
        samples.append(Sample(1000 * (ran - before), 1000 * (ran - committed)))
    return samples


def _percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]
