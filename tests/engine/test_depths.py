"""Once a minute the live jobs of each queue are counted, by one consumer, from the partial indexes."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from djjp import monitoring
from djjp.engine import Engine, depths
from djjp.engine.tiles import DAY, HOUR
from djjp.engine.waits import MOST_LEVELS, queues_of
from djjp.models import Depth, Job, State
from tests.support.consumers import consuming
from tests.support.engine_calls import at_once, claim, enqueue
from tests.support.plans import PLAN, statements
from tests.support.processes import eventually

#: Any of them may be the cheapest for PostgreSQL on a tiny table.
LIVE_INDEXES = {
    index.name
    for index in Job._meta.indexes
    if index.condition is not None
    and index.name not in ("djjp_job_failed", "djjp_job_limit", "djjp_job_pipeline")
}
MINUTE = 1_800_000_000 // 60 * 60


def sampled(**conditions: Any) -> dict[str, tuple[int, int, int, int]]:
    rows = Depth.objects.filter(**conditions).exclude(queue="")
    return {row.queue: (row.ready, row.scheduled, row.blocked, row.running) for row in rows}


def test_a_sample_has_the_live_jobs_of_each_queue(engine: Engine) -> None:
    now = time.time()
    enqueue(engine, 2, queue="running")
    claim(engine)
    enqueue(engine, 3, queue="mail", created_at=now - 100)
    enqueue(engine, 2, queue="mail", state=State.SCHEDULED, run_after=now + 60)
    enqueue(engine, 4, queue="video", state=State.BLOCKED, waits_for=1)
    enqueue(engine, queue="video")
    Job.objects.filter(queue="video", state=State.READY).update(rescues=1)
    for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED):
        enqueue(engine, queue="ended", state=state)

    assert engine.depths.sample(MINUTE, now)

    assert sampled(minute=MINUTE) == {
        "mail": (3, 2, 0, 0),
        "video": (1, 0, 4, 0),
        "running": (0, 0, 0, 2),
    }
    assert [
        (d.queue, d.oldest_wait and round(d.oldest_wait)) for d in monitoring.latest_depths()
    ] == [
        ("mail", 100),
        ("running", None),
        ("video", None),
    ]


def test_one_consumer_takes_the_sample_of_a_minute(engine: Engine) -> None:
    enqueue(engine, 5)
    written = at_once(*[lambda engine: engine.depths.sample(MINUTE, time.time())] * 3)
    assert sorted(written) == [False, False, True]
    assert sampled() == {"default": (5, 0, 0, 0)}
    enqueue(engine)
    assert not engine.depths.sample(MINUTE, time.time())
    assert sampled() == {"default": (5, 0, 0, 0)}


def test_a_count_is_bounded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depths, "MOST", 3)
    enqueue(engine, 10)
    engine.depths.sample(MINUTE, time.time())
    assert sampled() == {"default": (3, 0, 0, 0)}


def test_a_minute_without_jobs_is_sampled_and_shows_no_queue(engine: Engine) -> None:
    enqueue(engine)
    engine.depths.sample(MINUTE, time.time())
    Job.objects.all().delete()
    engine.depths.sample(MINUTE + 60, time.time())
    assert monitoring.latest_depths() == []
    [old] = monitoring.depths(MINUTE)
    assert (old.queue, old.minute) == ("default", datetime.fromtimestamp(MINUTE, UTC))
    assert monitoring.depths(MINUTE, queue="default") == [old]
    assert monitoring.depths(MINUTE, queue="other") == monitoring.depths(MINUTE + 60) == []


def test_old_samples_are_thinned_and_then_deleted(engine: Engine) -> None:
    start, now = MINUTE // HOUR * HOUR, MINUTE // HOUR * HOUR + 40 * DAY
    minutes = [
        now - 38 * DAY,
        now - 10 * DAY,
        now - 10 * DAY + 60,
        now - 3 * DAY + 60,
        now - DAY + 60,
    ]
    Depth.objects.bulk_create(Depth(queue="q", minute=minute) for minute in minutes)
    at = depths.first_hour(now)
    while (then := engine.depths.thin(at, now)) != at:
        at = then
    while engine.depths.prune(now):
        pass
    assert start
    assert [row.minute - now for row in Depth.objects.order_by("minute")] == [-10 * DAY, -DAY + 60]
    assert engine.depths.thin(at, now + HOUR) == at + HOUR


def test_a_consumer_samples(engine: Engine) -> None:
    enqueue(engine, queue="elsewhere")
    with consuming(queues=["none"]):
        eventually(lambda: Depth.objects.filter(queue="").exists())
    assert sampled() == {"elsewhere": (1, 0, 0, 0)}


def test_the_queues_of_the_last_samples_are_known(engine: Engine) -> None:
    rows = [("old", MINUTE - 600), ("mail", MINUTE), ("mail", MINUTE + 60), ("", MINUTE)]
    Depth.objects.bulk_create(Depth(queue=queue, minute=minute) for queue, minute in rows)
    assert engine.depths.queues(MINUTE - 0.5) == ["mail"]


def test_a_count_of_known_queues_steps_through_no_others(engine: Engine) -> None:
    for queue in ("a", "b"):
        enqueue(engine, 2, queue=queue)
    heads = engine.waits.first()
    assert queues_of(heads) == ["a", "b"]
    assert queues_of(heads * MOST_LEVELS) is None
    with_names = engine.depths.live(10, with_ready=["b"])
    assert with_names.counts["ready"] == {"b": 2}


def test_a_sample_reads_indexes_of_live_jobs_only(engine: Engine) -> None:
    enqueue(engine, 3)
    sent = statements(engine, lambda engine: list(engine.depths._counted(MINUTE, time.time())))
    assert len(sent) >= 5
    for sql, params in sent:
        plan = PLAN[engine.db.alias](engine, sql, params)
        assert plan.indexes <= LIVE_INDEXES, plan.text
        assert not plan.scans_all, plan.text


def test_of_very_many_queues_the_ready_jobs_are_counted_together(engine: Engine) -> None:
    for queue in ("a", "b", "c"):
        enqueue(engine, 5, queue=queue)

    few = engine.depths.live(1_000, ready_together=7)
    assert (few.counts["ready"], few.most_ready) == ({"a": 2, "b": 2, "c": 2}, 2)
    all_of_them = engine.depths.live(1_000, ready_together=3_000)
    assert (all_of_them.counts["ready"], all_of_them.most_ready) == (
        {"a": 5, "b": 5, "c": 5},
        1_000,
    )
    assert engine.depths.live(1_000, ready_together=1).counts["ready"] == {"a": 1, "b": 1, "c": 1}
