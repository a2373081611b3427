"""`python -m benchmarks.isolation` on a few jobs: the printed figures, not their values."""

from __future__ import annotations

import json

import pytest

from tests.support.benchmarks import benchmark

pytestmark = pytest.mark.long


def test_a_small_run_measures_the_writes_beside_nothing_a_queue_and_the_same_cpu_without_one() -> (
    None
):
    options = "--databases sqlite --jobs 50 --seconds 0.3 --repeat 1 --json"
    rows = json.loads(benchmark("benchmarks.isolation", *options.split()))["isolation"]

    assert [row["arm"] for row in rows] == [
        "nothing",
        "the queue, on its own database",
        "the same CPU, no queue",
        "the queue, in the application's database",
    ]
    idle, own, control, shared = rows
    assert all(row["writes"] > 0 and row["p99_ms"]["median"] > 0 for row in rows)
    assert own["to_control"]["median"] == own["p99_ms"]["median"] / control["p99_ms"]["median"]
    assert shared["jobs_per_second"]["median"] > 0
    assert idle["jobs_per_second"] is control["jobs_per_second"] is None
