"""The schedules that need somebody come first, then those that are due next, each with how its last job ended."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any
from uuid import uuid4

from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from djjp.engine import Engine
from djjp.models import Job, Schedule, State
from djjp.monitoring.upcoming import upcoming


def make_schedule(name: str, **fields: Any) -> Schedule:
    defaults = {
        "job": "shop.echo",
        "every": timedelta(hours=1),
        "arguments": '{"args":[],"kwargs":{}}',
        "fired_until": time.time(),
    }
    return Schedule.objects.create(name=name, **defaults | fields)


def test_broken_ones_come_first_then_overdue_ones_then_the_next(engine: Engine) -> None:
    # Its next occurrence is in the year 2052: an hour has those of shorter ones that divide a day.
    make_schedule("later", every=timedelta(days=10_000))
    make_schedule("soon")
    make_schedule("overdue", fired_until=time.time() - 7200)
    make_schedule("gone", job="shop.gone")
    make_schedule("off", enabled=False)

    found = upcoming()

    assert [each.row.name for each in found.schedules] == ["gone", "overdue", "soon", "later"]
    assert [each.is_overdue for each in found.schedules] == [False, True, False, False]
    gone, *others = found.schedules
    assert "shop.gone" in str(gone.problem)
    assert gone.next is None
    assert all(each.problem is None and each.next for each in others)
    assert (found.enabled, found.disabled) == (4, 1)


def test_the_last_job_has_its_state_while_it_is_kept(engine: Engine) -> None:
    job = Job.objects.create(
        name="shop.echo", state=State.FAILED, arguments="{}", created_at=timezone.now()
    )
    make_schedule("a", last_job=job.pk, last_occurrence=1.0)
    make_schedule("b", last_job=uuid4(), last_occurrence=1.0)
    make_schedule("c")

    states = {each.row.name: each.last_state for each in upcoming().schedules}

    assert states == {"a": "failed", "b": "", "c": ""}


def test_some_of_many_are_read_with_the_same_statements(engine: Engine) -> None:
    def statements() -> int:
        with CaptureQueriesContext(connections[engine.db.alias]) as captured:
            upcoming(3)
        return len(captured)

    make_schedule("0", last_job=uuid4())
    before = statements()
    for number in range(1, 20):
        make_schedule(str(number), last_job=uuid4())
    assert statements() == before
    assert len(upcoming(3).schedules) == 3
    assert upcoming(3).enabled == 20
