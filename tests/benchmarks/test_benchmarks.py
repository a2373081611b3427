"""`python -m benchmarks` on a few jobs: what it prints, not how fast it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.processes import ROOT

pytestmark = pytest.mark.end_to_end

SMALL = "--databases sqlite --rows 20x4 --drain-jobs 100 --pipelines 5 --enqueue-jobs 30 --samples 3 --repeat 2"


def run(*options: str) -> str:
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        *SMALL.split(),
        "--idle-seconds",
        "0.1",
        *options,
    ]
    # A queue that the environment names is not for benchmarks: were it used, the run would fail.
    environment = os.environ | {"DJJP_DATABASE_URL": "postgres://nobody@127.0.0.1:1/none"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_small_run_prints_every_table_and_the_same_as_json() -> None:
    figures = json.loads(run("--json"))

    assert list(figures) == [
        "machine",
        "table",
        "drain",
        "together",
        "pipelines",
        "enqueue",
        "pickup",
    ]
    (nap,) = figures["table"]
    assert (nap["database"], nap["jobs"], nap["threads"]) == ("sqlite", 20, 4)
    assert nap["ratio"] == nap["consumption_seconds"] / nap["ideal_seconds"] >= 1
    (drain,) = figures["drain"]
    assert len(drain["ratio"]["samples"]) == 2
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
    (pickup,) = figures["pickup"]
    assert 0 < pickup["p50_ms"]["min"] <= pickup["p99_ms"]["max"]

    header, *tables = run().split("\n\n")
    assert header.startswith("djjp benchmarks: cores ")
    assert "postgresql" not in header
    titles, grids = tables[::2], tables[1::2]
    assert len(titles) == len(grids) == 6
    for grid in grids:
        headings, rule, *rows = grid.splitlines()
        assert headings.startswith("database")
        assert set(rule) == {"-", " "}
        assert all(row.startswith("sqlite") for row in rows if row)
