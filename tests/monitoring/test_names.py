"""Job names are listed with the figures of a time, in any order, from totals alone."""

from __future__ import annotations

import json
import time

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from djjp.engine import Engine
from djjp.models import TotalEntry
from djjp.monitoring.names import ORDERS, names
from djjp.monitoring.totals import ever
from tests.monitoring.test_totals import UNIT, add_up

NOW = 0


@pytest.fixture(autouse=True)
def now() -> None:
    """Take the time anew for each test: lists begin some seconds before the present."""
    global NOW
    NOW = int(time.time())


def ends(
    name: str, kind: str = "succeeded", *, ago: float = 0.0, queue: str = "mail", **given: float
) -> None:
    """Write ends of a name: how many, and how long each ran and waited."""
    times = [given.get("waited", 1.0), given.get("ran", 1.0)] * int(given.get("count", 1))
    value = [round(each * UNIT) for each in times]
    TotalEntry.objects.create(
        minute=int(NOW - ago) // 60 * 60, figures=json.dumps({kind: {queue: {name: value}}})
    )


def listed(order: str = "ended", search: str = "", seconds: float = 3600.0) -> list[str]:
    return [each.name for each in names(seconds, order=order, search=search).names]


@pytest.mark.parametrize("added", [False, True])
def test_a_name_has_the_figures_of_all_its_queues(engine: Engine, added: bool) -> None:
    ends("send", count=3, ran=8.0)
    ends("send", count=1, queue="other", waited=4.0)
    ends("send", "failed", count=1)
    ends("send", "retried", count=2)
    ends("resize", ago=1800)
    if added:
        add_up(engine)

    found = names(3600.0)

    assert [each.name for each in found.names] == ["send", "resize"]
    assert found.matching == 2
    send, resize = found.names
    assert (send.figures.succeeded, send.figures.failed, send.figures.retried) == (4, 1, 2)
    assert send.share_failed == 0.2
    assert send.figures.runs.count == 7
    assert resize.share_failed == 0.0
    assert send.last.timestamp() == NOW // 60 * 60
    assert resize.last.timestamp() == (NOW - 1800) // 60 * 60


def test_every_order_begins_with_the_largest_and_ends_with_names_without_the_figure(
    engine: Engine,
) -> None:
    ends("fast", count=9, ran=0.01, waited=100.0)
    ends("slow", count=2, ran=500.0, waited=0.01)
    ends("bad", "failed", count=5, ran=1.0)
    ends("bad", "retried", count=1)
    TotalEntry.objects.create(
        minute=NOW // 60 * 60, figures=json.dumps({"cancelled": {"mail": {"ended": 1}}})
    )

    assert listed("ended")[:2] == ["fast", "bad"]
    assert listed("name") == ["bad", "ended", "fast", "slow"]
    assert listed("failed")[0] == listed("retried")[0] == listed("share")[0] == "bad"
    assert [listed(f"run_p{q}")[0] for q in (50, 95, 99)] == ["slow"] * 3
    assert [listed(f"wait_p{q}")[0] for q in (50, 95, 99)] == ["fast"] * 3
    assert listed("run_p50")[-1] == listed("share")[-1] == "ended"
    assert all(len(listed(order)) == 4 for order in ORDERS)
    with pytest.raises(ValueError, match="order is one of ended, name"):
        names(60.0, order="x")


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("SHOP", ["shop.a", "shop.b[1]"]),
        ("shop.*", ["shop.a", "shop.b[1]"]),
        ("*.a", ["shop.a"]),
        ("shop.?", ["shop.a"]),
        ("b[1]", ["shop.b[1]"]),
        ("*[1]", ["shop.b[1]"]),
        ("none", []),
    ],
)
def test_a_search_takes_a_part_of_a_name_or_a_pattern(
    engine: Engine, search: str, found: list[str]
) -> None:
    for name in ("shop.a", "shop.b[1]", "mail"):
        ends(name)
    assert listed("name", search) == found


@pytest.mark.parametrize(("seconds", "step"), [(3600.0, 60), (86_400.0, 3600), (604_800.0, 86_400)])
def test_a_time_begins_with_a_whole_minute_hour_or_day(
    engine: Engine, seconds: float, step: int
) -> None:
    ends("inside", ago=seconds - step)
    ends("outside", ago=seconds + 2 * step)
    add_up(engine)

    found = names(seconds)

    assert [each.name for each in found.names] == ["inside"]
    begins = {(at - seconds) // step * step for at in (NOW, time.time())}
    assert found.since.timestamp() in begins


def test_a_thousand_names_are_read_with_one_statement_and_the_first_are_returned(
    engine: Engine,
) -> None:
    figures = {
        "succeeded": {"mail": {f"job-{n:04}": [UNIT, UNIT] * (n % 7 + 1) for n in range(1000)}}
    }
    TotalEntry.objects.create(minute=NOW // 60 * 60, figures=json.dumps(figures))
    add_up(engine)

    with CaptureQueriesContext(connections[engine.db.alias]) as sent:
        found = names(3600.0, limit=100)

    assert len(sent) == 1
    assert (len(found.names), found.matching) == (100, 1000)


def test_what_has_ever_ended_is_read_for_one_name(engine: Engine) -> None:
    ends("send", count=2)
    ends("send", queue="other")
    ends("resize")
    assert [(each.queue, each.ended) for each in ever("send")] == [("mail", 2), ("other", 1)]
    assert ever("none") == []
