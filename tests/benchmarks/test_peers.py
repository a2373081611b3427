"""`python -m benchmarks.peers` without the other queues: it measures djjp, and notes the missing queues."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version

import pytest

from tests.support.benchmarks import benchmark

pytestmark = pytest.mark.end_to_end


def installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def test_a_queue_that_is_not_installed_gets_a_row_with_a_note_and_no_figure() -> None:
    options = "--stores sqlite --jobs 20 --naps 3 --repeat 1 --json"
    figures = json.loads(benchmark("benchmarks.peers", *options.split()))

    assert figures["settings"][0]["queue"] == "djjp"
    assert len(figures["settings"]) == 8
    djjp, *others = figures["noops"]
    assert (djjp["queue"], djjp["note"], djjp["ratio"]) == ("djjp", "", None)
    assert djjp["jobs_per_second"]["median"] > 0
    assert {row["queue"] for row in others} == {"huey", "django_tasks_db", "steady_queue"}
    for row in others:
        distribution = row["queue"].replace("_", "-")
        if not installed(distribution):
            assert row["note"] == f"{distribution} is not installed"
            assert row["jobs_per_second"] is row["ratio"] is row["one_by_one_per_second"] is None
    assert figures["naps"][0]["ratio"] > 1


def test_only_the_queues_in_the_option_are_compared() -> None:
    options = "--stores sqlite --only huey --jobs 5 --naps 0 --repeat 1 --json"
    figures = json.loads(benchmark("benchmarks.peers", *options.split()))

    assert [row["queue"] for row in figures["noops"]] == ["djjp", "huey"]
    assert "naps" not in figures
