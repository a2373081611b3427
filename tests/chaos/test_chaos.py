"""The chaos suite in its short form; `python -m tests.chaos --help` shows the options of longer runs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.databases import QUEUES
from tests.support.processes import ROOT

pytestmark = pytest.mark.end_to_end


# The first database is left to `make test-long`: `.ci/run` has no time for both.
@pytest.mark.parametrize(
    "database", [*(pytest.param(each, marks=pytest.mark.long) for each in QUEUES[:-1]), QUEUES[-1]]
)
def test_nothing_is_lost_and_nothing_run_twice_while_consumers_and_the_database_die(
    database: str,
) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.chaos", "--databases", database),
            *("--jobs", "600", "--consumers", "3", "--rate", "100"),
            *("--seconds-between-troubles", "2", "--seconds-under-fire", "1"),
        ],
        cwd=ROOT,
        env=os.environ.copy(),
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
