"""Programs read what has ended, and how long it waited and ran, exactly and up to the last commit."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from djjp import monitoring, run_many
from djjp.engine import Engine
from djjp.engine.tiles import DAY, HOUR, Tile, tiles
from djjp.models import Job, Span, TotalEntry
from djjp.monitoring import Figures, Histogram, aever, atotals, ever, totals
from djjp.monitoring.totals import ends_by_queue
from djjp.testing import drain
from tests.project.shop.jobs import add, fail, nap

UNIT = 1 << 20
T0 = 20_000 * DAY


def write(
    minute: int, name: str = "a", queue: str = "q", kind: str = "succeeded", **given: Any
) -> None:
    times = given.get("times", [(1.0, 2.0)])
    value = [each for pair in times for each in (round(pair[0] * UNIT), round(pair[1] * UNIT))]
    TotalEntry.objects.create(
        minute=minute, figures=json.dumps({kind: {queue: {name: given.get("count", value)}}})
    )


def add_up(engine: Engine) -> None:
    while engine.history.add_entries().more:
        pass


@pytest.mark.parametrize("added", [False, True])
def test_figures_are_by_queue_name_or_time(engine: Engine, added: bool) -> None:
    write(T0, "a")
    write(T0 + 60, "a", times=[(1, 1)] * 2)
    write(T0 + 60, "b", kind="failed")
    write(T0 + HOUR, "a", "r", kind="cancelled", count=5)
    write(T0 + DAY, "a", kind="retried")
    write(T0 + 60, "a", kind="late", count=1)
    write(T0 + 60, "a", kind="rescued", count=2)
    if added:
        add_up(engine)

    [everything] = totals(T0)
    assert (everything.succeeded, everything.failed, everything.cancelled) == (3, 1, 5)
    assert (everything.retried, everything.late, everything.rescued) == (1, 1, 2)
    assert (everything.ended, everything.wait_seconds, everything.run_seconds) == (9, 5.0, 8.0)
    assert [(f.queue, f.ended) for f in totals(T0, by="queue")] == [("q", 4), ("r", 5)]
    assert [(f.queue, f.name, f.ended) for f in totals(T0, by="name")] == [
        ("q", "a", 3),
        ("q", "b", 1),
        ("r", "a", 5),
    ]
    minutes = totals(T0, T0 + 2 * HOUR, by="minute")
    assert [(f.starts_at, f.ended) for f in minutes] == [
        (datetime.fromtimestamp(T0, UTC), 1),
        (datetime.fromtimestamp(T0 + 60, UTC), 3),
        (datetime.fromtimestamp(T0 + HOUR, UTC), 5),
    ]
    assert [f.ended for f in totals(T0, by="hour")] == [4, 5, 0]
    assert [f.ended for f in totals(T0, by="day")] == [9, 0]
    assert [f.ended for f in totals(T0 + 60, T0 + 61)] == [3]
    assert [f.ended for f in totals(T0, name="b")] == [1]
    assert [f.ended for f in totals(T0, queue="r", by="name")] == [5]
    assert totals(datetime.fromtimestamp(T0, UTC)) == [everything]
    assert sum(f.ended for f in ever()) == 9


@pytest.mark.parametrize("added", [False, True])
def test_the_ends_of_queues_are_read_without_their_times(engine: Engine, added: bool) -> None:
    now = int(time.time()) // 60 * 60
    write(now, "a")
    write(now, "b", kind="failed")
    write(now, "a", "r", kind="retried")
    write(now - 7200, "a", "old")
    if added:
        add_up(engine)
        with CaptureQueriesContext(connections[engine.db.alias]) as sent:
            found = ends_by_queue(now - 600)
        assert all(f.runs.buckets == {} for f in found)
        assert not any(column in sent[0]["sql"] for column in ("(waits", "(runs"))
    assert [(f.queue, f.ended) for f in ends_by_queue(now - 600)] == [("q", 2), ("r", 0)]


def test_without_an_end_there_is_one_empty_sum(engine: Engine) -> None:
    assert totals(T0) == [Figures()]
    assert totals(T0, queue="mail", name="a") == [Figures("mail", "a")]
    assert totals(T0, by="name") == totals(T0, by="minute") == ever() == []
    assert not engine.history.add_entries().more


def test_another_grouping_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="by is none, queue, name, minute, hour or day"):
        totals(T0, by="week")  # type: ignore[arg-type]


@pytest.mark.parametrize("since", [0, 30, 61, HOUR - 1, HOUR, 5 * HOUR + 7, DAY, DAY + HOUR + 60])
@pytest.mark.parametrize("length", [60, 600, 3 * HOUR, DAY, 3 * DAY + 61])
def test_each_minute_is_in_one_row_of_a_time(since: int, length: int) -> None:
    start, end = T0 + since, T0 + since + length
    lengths = {Span.MINUTE: 60, Span.HOUR: HOUR, Span.DAY: DAY}
    chosen = tiles(start, end, end + 10**6)
    for tile in chosen:
        if tile.span is not Span.MINUTE:
            assert tile.end is not None
            assert tile.start % lengths[tile.span] == tile.end % lengths[tile.span] == 0
    for minute in range(start // 60 * 60, end, 60):
        assert len([tile for tile in chosen if tile.start_of(minute) is not None]) == 1
    assert not [tile for tile in chosen if tile.start_of(start // 60 * 60 - 60) is not None]
    assert not [tile for tile in chosen if tile.start_of(-(-end // 60) * 60) is not None]


def test_a_time_up_to_now_has_no_end() -> None:
    assert tiles(T0, None, T0 + 60) == [Tile(Span.MINUTE, T0, None)]
    assert tiles(T0, None, T0 + DAY)[-1] == Tile(Span.MINUTE, T0 + DAY, None)


@pytest.mark.parametrize("added", [False, True])
def test_percentiles_are_within_one_bucket_of_the_true_ones(engine: Engine, added: bool) -> None:
    chance = random.Random(1)
    times = [(chance.lognormvariate(-3, 2), chance.lognormvariate(0, 3)) for _ in range(5000)]
    for start in range(0, 5000, 500):
        write(T0, times=times[start : start + 500])
    if added:
        add_up(engine)

    [figures] = totals(T0)
    for at, histogram in enumerate((figures.waits, figures.runs)):
        true = sorted(pair[at] for pair in times)
        assert histogram.count == 5000
        assert histogram.seconds == pytest.approx(sum(true), rel=1e-4)
        assert histogram.mean == pytest.approx(sum(true) / 5000, rel=1e-4)
        for q in (50, 95, 99):
            found, exact = histogram.percentile(q), true[int(q / 100 * 5000) - 1]
            assert found is not None
            assert abs(math.frexp(found)[1] - math.frexp(exact)[1]) <= 1


def test_the_extremes_of_a_histogram() -> None:
    assert Histogram().percentile(50) is None
    assert Histogram().mean is None
    histogram = Histogram(3.0, {-10: 1, 20: 1})
    assert histogram.percentile(0) == 0.0
    assert histogram.percentile(100) == 2.0**20
    with pytest.raises(ValueError, match="from 0 to 100"):
        histogram.percentile(101)


def test_times_of_real_jobs(engine: Engine) -> None:
    began = time.time()
    run_many([*(add.bind(n) for n in range(20)), fail.bind("no")])
    drain()
    by_name = {figures.name: figures for figures in totals(began, by="name")}
    assert by_name[add.name].succeeded == 20
    assert by_name[fail.name].failed == 1
    for figures, count in ((by_name[add.name], 20), (by_name[fail.name], 1)):
        assert figures.waits.count == figures.runs.count == count
        assert 0 < figures.wait_seconds < count * (time.time() - began)


def test_percentiles_of_a_drain_are_within_one_bucket_of_those_of_its_rows(engine: Engine) -> None:
    began = time.time()
    run_many(nap.bind(0.0005 * 2 ** (number % 8)) for number in range(80))
    drain()

    [figures] = totals(began)
    rows = Job.objects.values_list("created_at", "started_at", "finished_at")
    times = [[at.timestamp() for at in row if at is not None] for row in rows]
    true_waits = sorted(started - created for created, started, _ in times)
    true_runs = sorted(finished - started for _, started, finished in times)
    for histogram, true in ((figures.waits, true_waits), (figures.runs, true_runs)):
        assert histogram.count == 80
        for q in (50, 95, 99):
            found, exact = histogram.percentile(q), true[math.ceil(q / 100 * 80) - 1]
            assert found is not None
            assert abs(math.frexp(found)[1] - math.frexp(exact)[1]) <= 1


def test_coroutines_read_the_same(engine: Engine) -> None:
    write(T0)

    async def read() -> tuple[list[Figures], list[Figures]]:
        return await atotals(T0, by="name"), await aever()

    assert asyncio.run(read()) == (totals(T0, by="name"), ever())
    assert engine.history.has_entries()


def test_the_names_are_public() -> None:
    assert {"totals", "atotals", "ever", "aever", "depths", "latest_depths"} <= {
        *monitoring.__all__
    }
