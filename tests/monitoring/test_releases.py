"""The figures of a name before the last release and since are those of two times of one length."""

from __future__ import annotations

import json
import time

from djjp.durations import to_datetime
from djjp.engine import Engine
from djjp.models import Release, TotalEntry
from djjp.monitoring.releases import LONGEST, compared
from tests.monitoring.test_totals import add_up


def release(name: str, at: float) -> None:
    Release.objects.create(name=name, appeared_at=to_datetime(at))


def ended(at: float, kind: str, count: int, name: str = "send") -> None:
    figures = {kind: {"mail": {name: count}}}
    TotalEntry.objects.create(minute=int(at) // 60 * 60, figures=json.dumps(figures))


def test_without_a_release_there_is_no_comparison(engine: Engine) -> None:
    ended(time.time(), "succeeded", 1)
    assert compared("send") is None


def test_what_ended_before_is_compared_with_what_ended_since(engine: Engine) -> None:
    now = time.time()
    release("old", now - 90_000)
    release("new", now - 3600)
    ended(now - 3600 - 1800, "succeeded", 10)
    ended(now - 3600 - 1800, "failed", 1)
    ended(now - 3600, "failed", 99)  # in the minute of the release
    ended(now - 1800, "succeeded", 3)
    ended(now - 1800, "failed", 7)
    ended(now - 1800, "failed", 7, "other")
    ended(now - 3 * 3600, "failed", 50)  # before the time that is compared

    found = compared("send")

    assert found is not None
    assert found.release.release == "new"
    assert abs(found.seconds - 3600) < 120
    assert (found.before.succeeded, found.before.failed) == (10, 1)
    assert (found.after.succeeded, found.after.failed) == (3, 7)


def test_of_an_old_release_the_last_days_are_compared(engine: Engine) -> None:
    now = time.time()
    release("old", now - 40 * 86_400)
    ended(now - 30 * 86_400, "failed", 5)
    ended(now - 86_400, "succeeded", 2)
    add_up(engine)

    found = compared("send")

    assert found is not None
    assert found.seconds == LONGEST
    assert (found.after.succeeded, found.after.failed) == (2, 0)
