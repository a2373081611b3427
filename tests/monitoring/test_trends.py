"""The trend of a span has the exact figures of its intervals, and the releases that appeared in it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from djjp.engine import Engine
from djjp.engine.consumers import RELEASES_KEPT
from djjp.models import Consumer, Depth, Release, Total
from djjp.monitoring import trends
from djjp.monitoring.trends import SPANS, Appearance, Live, appearances, trend

NOW = int(time.time()) // 86_400 * 86_400 - 86_400 + 7 * 3600 + 31 * 60 + 20


@pytest.fixture(autouse=True)
def at_a_fixed_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trends, "time", SimpleNamespace(time=lambda: float(NOW)))


def total(span: str, starts_at: int, **figures: object) -> None:
    waits = json.dumps(figures.pop("waits", {}))
    row = {"queue": "mail", "name": "send", **figures}
    Total.objects.create(span=span, starts_at=starts_at, waits=waits, **row)


def test_an_hour_has_sixty_minutes_and_the_last_one_is_the_one_that_runs(engine: Engine) -> None:
    minute = NOW // 60 * 60
    total("minute", minute, succeeded=3, failed=1, cancelled=1)
    total("minute", minute - 3540, succeeded=7, waits={"0": 2})
    total("minute", minute - 3600, succeeded=100)

    intervals = trend(SPANS["1h"]).intervals

    assert [each.starts_at for each in intervals] == [minute - 60 * n for n in range(59, -1, -1)]
    assert (intervals[0].succeeded, intervals[0].ended) == (7, 7)
    assert (intervals[-1].succeeded, intervals[-1].failed, intervals[-1].cancelled) == (3, 1, 1)
    assert intervals[-1].per_minute(3) == 3
    assert intervals[0].wait_p95 is not None
    assert intervals[1].wait_p95 is None
    assert sum(each.ended for each in intervals) == 12


@pytest.mark.parametrize(("name", "rows", "step"), [("24h", "minute", 600), ("7d", "hour", 3600)])
def test_a_longer_span_adds_up_its_rows(engine: Engine, name: str, rows: str, step: int) -> None:
    start = NOW // step * step
    total(rows, start - step, succeeded=10)
    total(rows, start - step, name="other", failed=5, waits={"3": 1})

    intervals = trend(SPANS[name]).intervals

    assert len(intervals) == SPANS[name].seconds // step
    assert intervals[-2].succeeded == 10
    assert intervals[-2].failed == 5
    assert intervals[-2].per_minute(10) == pytest.approx(600 / step)
    assert intervals[-1].seconds == min(step, NOW - start)


def test_a_day_with_very_many_names_is_read_from_hours(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trends, "MOST_ROWS", 2)
    hour = NOW // 3600 * 3600
    for number in range(2):
        total("minute", hour + 60 * number, succeeded=1)
    total("hour", hour, succeeded=2)

    found = trend(SPANS["24h"])

    assert found.step == 3600
    assert len(found.intervals) == 24
    assert found.intervals[-1].succeeded == 2


def test_a_trend_of_many_names_is_exact_however_often_it_is_read(engine: Engine) -> None:
    hour = NOW // 3600 * 3600
    for number in range(200):
        total("hour", hour - 3600, name=f"n{number}", succeeded=1, waits={"-3": 1, "2": 1})
    for _ in range(2):
        interval = trend(SPANS["7d"]).intervals[-2]
        assert interval.succeeded == 200
        assert interval.wait_p95 is not None
        assert 3 < interval.wait_p95 < 4
    Total.objects.filter(name="n0").update(waits='{"9":100000}')
    waited = trend(SPANS["7d"]).intervals[-2].wait_p95
    assert waited is not None
    assert waited > 200, "a row that was written since"


def test_depths_are_those_of_all_queues_and_none_differs_from_not_counted(engine: Engine) -> None:
    minute = NOW // 60 * 60
    Depth.objects.create(queue="", minute=minute)
    Depth.objects.create(queue="mail", minute=minute, ready=4, running=1)
    Depth.objects.create(queue="bulk", minute=minute, ready=6, scheduled=2, blocked=3)
    Depth.objects.create(queue="", minute=minute - 60)

    intervals = trend(SPANS["1h"]).intervals

    assert intervals[-1].live == Live(ready=10, scheduled=2, blocked=3, running=1)
    assert intervals[-2].live == Live(0, 0, 0, 0)
    assert intervals[-3].live is None


def test_the_number_of_statements_does_not_depend_on_the_number_of_rows(engine: Engine) -> None:
    def statements() -> int:
        with CaptureQueriesContext(connections[engine.db.alias]) as captured:
            for span in SPANS.values():
                trend(span)
        return len(captured)

    before = statements()
    minute = NOW // 60 * 60
    for number in range(20):
        total("minute", minute - 60 * number, name=f"job {number}", succeeded=1)
        Depth.objects.create(queue=f"queue {number}", minute=minute, ready=1)
        Release.objects.create(name=str(number), appeared_at=datetime.fromtimestamp(NOW, UTC))
    assert statements() == before


@pytest.fixture
def start(engine: Engine) -> Callable[[str, str, int], Consumer]:
    def start(name: str, release: str, second: int) -> Consumer:
        at = datetime.fromtimestamp(NOW + second, UTC)
        consumer = Consumer(
            name=name,
            host="web",
            pid=1,
            concurrency="threads",
            concurrency_limit=1,
            started_at=at,
            heartbeat_at=at,
            locked=False,
            release=release,
        )
        engine.consumers.register(consumer)
        return consumer

    return start


def test_a_release_appears_once_however_many_consumers_start_with_it(
    engine: Engine, start: Callable[[str, str, int], Consumer]
) -> None:
    start("a", "1.0", 0)
    start("b", "1.0", 1)
    start("c", "", 2)
    start("d", "2.0", 3)
    start("b", "1.0", 4)  # one consumer of the former release starts again
    start("e", "2.0", 5)

    assert appearances() == [Appearance("1.0", NOW), Appearance("2.0", NOW + 3)]
    assert trend(SPANS["1h"]).releases == appearances()
    assert appearances(NOW + 1) == [Appearance("2.0", NOW + 3)]


def test_a_release_that_comes_back_appears_again_and_a_restart_does_not(
    engine: Engine, start: Callable[[str, str, int], Consumer]
) -> None:
    for second, release in enumerate(["1.0", "1.0", "2.0", "1.0"]):
        start("a", release, second)
        engine.consumers.deregister("a")

    assert [each.release for each in appearances()] == ["1.0", "2.0", "1.0"]


def test_two_notes_of_one_release_are_one_appearance(engine: Engine) -> None:
    at = datetime.fromtimestamp(NOW, UTC)
    for _ in range(2):
        Release.objects.create(name="1.0", appeared_at=at)

    assert appearances() == [Appearance("1.0", NOW)]


def test_the_last_releases_are_kept(
    engine: Engine, start: Callable[[str, str, int], Consumer]
) -> None:
    at = datetime.fromtimestamp(NOW, UTC)
    Release.objects.bulk_create(
        Release(name=str(number), appeared_at=at) for number in range(RELEASES_KEPT + 5)
    )
    start("a", "new", 1)

    kept = [each.release for each in appearances()]
    assert len(kept) == RELEASES_KEPT
    assert kept[-1] == "new"


def test_the_trend_of_a_queue_has_its_figures_and_its_depth(engine: Engine) -> None:
    minute = NOW // 60 * 60
    total("minute", minute, succeeded=3)
    total("minute", minute, succeeded=5, queue="other")
    Depth.objects.create(queue="", minute=minute)
    Depth.objects.create(queue="mail", minute=minute, ready=7)
    Depth.objects.create(queue="other", minute=minute, ready=9)
    Depth.objects.create(queue="", minute=minute - 60)

    *_, before, last = trend(SPANS["1h"], queue="mail").intervals

    assert (last.succeeded, last.live) == (3, Live(7, 0, 0, 0))
    assert before.live == Live(0, 0, 0, 0)


def test_the_trend_of_a_name_has_its_figures_and_no_depth(engine: Engine) -> None:
    minute = NOW // 60 * 60
    total("minute", minute, succeeded=3)
    total("minute", minute, succeeded=5, name="other")
    Depth.objects.create(queue="", minute=minute)

    last = trend(SPANS["1h"], name="send").intervals[-1]

    assert (last.succeeded, last.live) == (3, None)
