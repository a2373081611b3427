"""The queues that are known, and how soon each is empty."""

from __future__ import annotations

import json
import time
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from djjp import queues
from djjp.engine import Engine
from djjp.models import Job, Span, Total
from djjp.monitoring.overview import QueueInfo, overview, queue_infos
from djjp.monitoring.queues import known_queues
from tests.support.admin import NOW
from tests.support.factories import consumer_row, new_job


def info(ready: int, incoming: float | None, out: float | None, **given: Any) -> QueueInfo:
    counts = {"ready": ready, "scheduled": 0, "blocked": 0, "running": 0}
    fields: dict[str, Any] = {
        "lower_bounds": [],
        "oldest_wait": None,
        "is_paused": False,
        "paused_until": None,
        "served_by": [],
    }
    return QueueInfo("mail", counts, in_per_minute=incoming, out_per_minute=out, **fields | given)


@pytest.mark.parametrize(
    ("queue", "seconds"),
    [
        (info(100, 10.0, 20.0), 600.0),
        (info(100, 0.0, 100.0), 60.0),
        (info(0, None, None), 0.0),
        (info(100, 20.0, 20.0), None),
        (info(100, 30.0, 20.0), None),
        (info(100, None, 20.0), None),
        (info(100, 10.0, None), None),
        (info(100, 10.0, 20.0, is_paused=True), None),
    ],
)
def test_a_queue_is_empty_after_the_time_that_its_rates_give(
    queue: QueueInfo, seconds: float | None
) -> None:
    assert queue.empty_in == seconds


def test_a_queue_is_listed_on_request_whatever_it_has(engine: Engine) -> None:
    queues.pause("paused")
    assert [each.name for each in queue_infos()] == ["paused"]
    found = {each.name: each for each in queue_infos(also=["empty", "paused"])}
    assert list(found) == ["empty", "paused"]
    assert found["empty"].counts == dict.fromkeys(("ready", "scheduled", "blocked", "running"), 0)


def test_a_queue_is_listed_for_an_hour_after_its_last_end_and_never_for_two(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    hour = int(now) // 3600 * 3600
    # The hour does not change between the rows and the answer.
    clock = SimpleNamespace(time=lambda: now)
    monkeypatch.setattr(import_module("djjp.monitoring.overview"), "time", clock)
    for name, ago in (("now", 0), ("recent", 3600), ("old", 7200)):
        Total.objects.create(span=Span.HOUR, starts_at=hour - ago, queue=name, name="n")
    assert [each.name for each in queue_infos()] == ["now", "recent"]


def test_the_first_jobs_of_all_queues_are_read_once_for_all_that_is_wrong_and_how_long_they_wait(
    engine: Engine,
) -> None:
    for number in range(3):
        engine.jobs.enqueue(new_job(queue=f"q{number}", created_at=time.time() - 60))
    with CaptureQueriesContext(connections[engine.db.alias]) as captured:
        found = overview()
    assert [each.subject for each in found.incidents] == ["q0", "q1", "q2"]
    assert all(each.oldest_wait is not None for each in found.queues)
    assert sum("level(queue, priority)" in each["sql"] for each in captured) == 1


def test_a_queue_that_a_consumer_serves_is_known_without_its_weight(engine: Engine) -> None:
    consumer_row(queues=json.dumps(["mail:3", "bulk", "img*", "not slow", "a:b"]))
    consumer_row("odd:1:a", queues="{")
    consumer_row("all:1:a", queues=None)
    Job.objects.create(name="a", queue="waiting", created_at=NOW, arguments="[]")

    found = known_queues()

    assert found >= {"mail", "bulk", "a:b", "waiting"}
    assert not found & {"mail:3", "img*", "not slow", "slow", ""}
