"""Pipelines in consumers that are processes of their own: what is let go is let go once, whoever dies."""

from __future__ import annotations

import time
from collections import Counter
from uuid import UUID

import pytest

from djjp import chain, group
from djjp.claims import Claims
from djjp.exceptions import JobCancelled, JobFailed
from djjp.models import Job
from tests.harness import Processes, eventually
from tests.project.shop.jobs import TALLY, add, echo, fail, record, tally
from tests.project.shop.models import Execution


def test_results_travel_through_a_drain(queue: Claims, processes: Processes) -> None:
    handle = chain(
        add.bind(1), group(add.bind(10), chain(add.bind(20), add.bind(300))), echo.bind("end")
    ).run_later()
    assert processes.run("start_consumer", "--drain").returncode == 0
    assert handle.join(0) == [[[11, 321], "end"], {}]
    assert handle.progress == (5, 5)
