"""`python -m benchmarks` on a few jobs: the printed figures, not their values."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.benchmarks import benchmark_with_progress

pytestmark = pytest.mark.long

SMALL = (
    "--databases sqlite --rows 20x4 --drain-jobs 100 --pipelines 5 --enqueue-jobs 30 "
    "--http-requests 8 --instrumented-jobs 20 --samples 3 --repeat 2 --idle-seconds 0.1"
)


def test_a_small_run_prints_every_table_and_its_figures_as_json() -> None:
    pytest.importorskip("gunicorn", reason="the table of HTTP is omitted without it")

    out, err = benchmark_with_progress("benchmarks", *SMALL.split(), "--json")

    check_figures(json.loads(out))
    lines = [line for line in err.splitlines() if not line.startswith("…")]
    check_tables("\n".join(lines))


def check_figures(figures: dict[str, Any]) -> None:
    assert list(figures) == [
        "machine",
        "table",
        "drain",
        "totals",
        "together",
        "pipelines",
        "enqueue",
        "http",
        "instruments",
        "pickup",
    ]
    (nap,) = figures["table"]
    assert (nap["database"], nap["jobs"], nap["threads"]) == ("sqlite", 20, 4)
    assert nap["ratio"] == nap["consumption_seconds"] / nap["ideal_seconds"] >= 1
    (drain,) = figures["drain"]
    assert len(drain["ratio"]["samples"]) == 2
    assert [row["what"].split(",")[0] for row in figures["totals"]] == [
        "a job of a drain",
        "a job of a drain",
        "a turn of one job",
    ]
    for row in figures["totals"]:
        assert len(row["cpu_ratio"]["samples"]) == 2
        assert min(row["with"]["min"], row["without"]["min"]) > 0
    alone, together = figures["together"]
    assert (alone["consumers"], together["consumers"], len(together["ratio"]["samples"])) == (
        1,
        2,
        2,
    )
    (pipelines,) = figures["pipelines"]
    assert (pipelines["jobs"], len(pipelines["ratio"]["samples"])) == (60, 2)
    ways = {row["way"]: row["jobs_per_second"]["median"] for row in figures["enqueue"]}
    assert ways.keys() >= {"run_later", "run_many"}
    assert min(ways.values()) > 0
    bare, *others = figures["http"]
    assert [row["way"].split()[0] for row in others] == ["a", "POST", "POST"]
    assert bare["ratio"] is None
    for row in figures["http"]:
        assert 0 < row["p50_ms"]["min"] <= row["p99_ms"]["max"]
        assert len(row["requests_per_second"]["samples"]) == 2
    cases = {row["case"]: row for row in figures["instruments"]}
    assert cases.keys() >= {"none", "opentelemetry", "sentry, errors", "prometheus"}
    assert all(len(row["run_us"]["samples"]) == 2 for row in cases.values())
    assert cases["prometheus"]["scrape_ms"]["min"] > 0
    (pickup,) = figures["pickup"]
    assert 0 < pickup["p50_ms"]["min"] <= pickup["p99_ms"]["max"]


def check_tables(text: str) -> None:
    header, *tables = text.split("\n\n")
    assert header.startswith("djjp benchmarks: cores ")
    assert "postgresql" not in header
    titles, grids = tables[::2], tables[1::2]
    assert len(titles) == len(grids) == 9
    for grid in grids:
        headings, rule, *rows = grid.splitlines()
        assert headings.startswith("database")
        assert set(rule) == {"-", " "}
        assert all(row.startswith("sqlite") for row in rows if row)
