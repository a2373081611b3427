"""`python -m benchmarks.scale` on a few jobs: the printed figures, not their values."""

from __future__ import annotations

import json
import statistics

import pytest

from tests.support.benchmarks import benchmark

pytestmark = pytest.mark.long


def test_a_small_run_measures_everything_on_the_small_queue_and_on_the_full_one() -> None:
    sizes = "--ready 1500 --finished 1200 --scheduled 10 --queues 20 --snapshot-jobs 600"
    sizes += " --dashboards 3 --drained 500"
    printed = benchmark(
        "benchmarks.scale", "--databases", "sqlite", *sizes.split(), "--samples", "2", "--json"
    )
    printed_tables = json.loads(printed)
    rows = printed_tables["scale"]

    assert [row["what"] for row in rows] == [
        "turn, all queues served",
        "turn, one queue served",
        "turn, 100 queues served",
        "enqueue",
        "admin, first page",
        "prune of 1,000",
        "turn, 600 jobs after the start of an open transaction",
    ]
    for row in rows:
        assert row["database"] == "sqlite"
        pairs = zip(row["full_ms"]["samples"], row["small_ms"]["samples"], strict=True)
        assert row["ratio"] == statistics.median(full / small for full, small in pairs) > 0

    pages = {row["page"]: row for row in printed_tables["pages"]}
    assert {"/", "/?span=7d", "/job/", "/job/?q=tag%3Abilling", "/schedule/"} <= set(pages)
    assert all(row["ms"]["median"] > 0 for row in pages.values())
    (opened,) = printed_tables["dashboards"]
    assert opened["dashboards"] == 3
    assert opened["refreshes_per_second"] > 0
    assert opened["ratio"]["median"] > 0
