"""The slowest jobs of a name are found among its newest ones, in a limited time, and it is known how far."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from djjp.engine import Engine
from djjp.ids import new_id
from djjp.models import Job, State
from djjp.monitoring import slowest as module
from djjp.monitoring.slowest import slowest


def ran(seconds: float | None, name: str = "send", **given: Any) -> Job:
    """Write a job that ran for some seconds; None for a job without a start."""
    now = timezone.now()
    started = None if seconds is None else now
    ended = now if seconds is None else now + timedelta(seconds=seconds)
    fields = {"state": State.SUCCEEDED, "created_at": now, "arguments": "[]"} | given
    return Job.objects.create(
        id=new_id(), name=name, started_at=started, finished_at=ended, **fields
    )


def test_the_longest_runs_come_first(engine: Engine) -> None:
    short, long = ran(1.0), ran(100.0, state=State.FAILED, consumer="here", queue="mail")
    ran(500.0, "other")
    ran(None, state=State.CANCELLED)
    Job.objects.create(id=new_id(), name="send", created_at=timezone.now(), arguments="[]")

    found = slowest("send")

    assert [run.id for run in found.runs] == [long.pk, short.pk]
    first = found.runs[0]
    assert (first.queue, first.state, first.consumer) == ("mail", "failed", "here")
    assert first.seconds == pytest.approx(100.0)
    assert found.compared == 2
    assert found.looked_back_to is None
    assert found.oldest is not None


def test_it_returns_some_of_them_and_compares_the_newest_only(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST", 5)
    ran(1000.0)
    for seconds in range(5):
        ran(float(seconds))

    found = slowest("send", limit=2)

    assert [round(run.seconds) for run in found.runs] == [4, 3]
    assert found.compared == 5


def test_a_search_whose_time_is_over_has_the_time_to_which_it_came(engine: Engine) -> None:
    for _ in range(600):
        ran(1.0, "other")

    found = slowest("send", time_limit=-1.0)

    assert found.runs == []
    assert found.looked_back_to is not None
    assert abs(found.looked_back_to.timestamp() - time.time()) < 3600


def test_a_name_with_the_signs_of_a_pattern_is_a_name(engine: Engine) -> None:
    ran(1.0, "send.x")
    star = ran(2.0, "send.*")
    assert [run.id for run in slowest("send.*").runs] == [star.pk]


def test_a_clock_that_went_back_makes_no_negative_run(engine: Engine) -> None:
    ran(-5.0)
    assert [run.seconds for run in slowest("send").runs] == [0.0]
