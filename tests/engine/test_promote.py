"""Promotion of scheduled jobs and the times of rows, on both databases."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime
from uuid import UUID

from django.test.utils import override_settings

from djjp.engine import Engine, Failure, Outcome
from djjp.models import Attempt, Job, State
from tests.support.engine_calls import (
    NOW,
    at_once,
    claim,
    enqueue,
    row,
)
from tests.support.factories import new_job


def test_a_scheduled_job_waits_until_it_is_promoted(engine: Engine) -> None:
    [id] = enqueue(engine, state=State.SCHEDULED, run_after=NOW)
    assert not engine.jobs.has_ready(None, [])
    assert claim(engine) == []
    assert engine.jobs.promote(NOW) == 1
    assert engine.jobs.has_ready(None, [])
    assert [job.id for job in claim(engine)] == [id]


def test_only_due_jobs_are_promoted(engine: Engine) -> None:
    due = [
        enqueue(engine, state=State.SCHEDULED, run_after=NOW + wait)[0]
        for wait in (-86_400, -1e-6, 0)
    ]
    later = [
        enqueue(engine, state=State.SCHEDULED, run_after=NOW + wait)[0] for wait in (1e-6, 0.5, 1e9)
    ]
    blocked = enqueue(engine, state=State.BLOCKED, run_after=NOW - 1)
    running = enqueue(engine, state=State.RUNNING, run_after=NOW - 1)
    assert engine.jobs.promote(NOW) == 3
    assert engine.jobs.promote(NOW) == 0
    states = dict(Job.objects.values_list("id", "state"))
    assert {states[id] for id in due} == {"ready"}
    assert {states[id] for id in later} == {"scheduled"}
    assert [states[id] for id in blocked + running] == ["blocked", "running"]


def test_a_promoted_job_keeps_its_position_by_priority_and_age(engine: Engine) -> None:
    elder, younger = new_job(state=State.SCHEDULED, run_after=NOW), new_job()
    engine.jobs.enqueue_many([younger, elder])
    engine.jobs.promote(NOW)
    assert [job.id for job in claim(engine)] == [elder.id, younger.id]


def test_a_time_without_a_fraction_is_neither_early_nor_late(engine: Engine) -> None:
    """A whole second is shorter as text than the moments after it, and must sort before them."""
    whole = 1_767_225_600
    at = {
        wait: enqueue(engine, state=State.SCHEDULED, run_after=whole + wait)[0]
        for wait in (-0.000001, 0, 0.000001, 0.1, 0.5, 1)
    }
    ready: set[UUID] = set()
    for now, wait in [
        (-0.000001, -0.000001),
        (0, 0),
        (0.000001, 0.000001),
        (0.1, 0.1),
        (0.9, 0.5),
        (1, 1),
    ]:
        assert engine.jobs.promote(whole + now) == 1
        ready.add(at[wait])
        assert set(Job.objects.filter(state="ready").values_list("id", flat=True)) == ready


def test_the_next_due_time_is_that_of_the_first_scheduled_job(engine: Engine) -> None:
    assert engine.jobs.next_due() is None
    enqueue(engine, run_after=NOW - 5)
    enqueue(engine, state=State.BLOCKED, run_after=NOW - 5)
    assert engine.jobs.next_due() is None
    for wait in (3600, 1, 2):
        enqueue(engine, state=State.SCHEDULED, run_after=NOW + wait)
    due = engine.jobs.next_due()
    assert due is not None
    assert abs(due - (NOW + 1)) <= 0.001
    assert engine.jobs.promote(NOW + 1) == 1
    due = engine.jobs.next_due()
    assert due is not None
    assert abs(due - (NOW + 2)) <= 0.001


def test_every_time_is_stored_to_the_microsecond(engine: Engine) -> None:
    choose = random.Random(11)
    times = [choose.uniform(0, 3e9) for _ in range(150)]
    times += [float(choose.randrange(3_000_000_000)) for _ in range(20)]
    times += [1_767_225_600.999999, 1_767_225_600.9999996, 1_767_225_600.0000004, 0.0, time.time()]
    for seconds in times:
        enqueue(engine, created_at=seconds, run_after=seconds)
    with engine.db.transaction():
        jobs = engine.jobs.claim("one", len(times), times[0])
        refused = engine.jobs.finish(
            "one",
            [
                Outcome(job, State.FAILED, seconds, seconds, failure=Failure("E", "", ""))
                for job, seconds in zip(jobs, times, strict=True)
            ],
        )
    assert len(jobs) == len(times)
    assert refused == set()
    for job, seconds in zip(jobs, times, strict=True):
        written = datetime.fromtimestamp(seconds, UTC)
        found = row(job.id)
        for field in ("created_at", "run_after", "started_at", "finished_at"):
            assert found[field] == written, (field, seconds)
        attempt = Attempt.objects.get(job_id=job.id)
        assert (attempt.started_at, attempt.finished_at) == (written, written)


def test_concurrent_promotions_promote_each_job_once(engine: Engine) -> None:
    for _ in range(5):
        jobs = [
            new_job(state=State.SCHEDULED, run_after=NOW - number % 50) for number in range(500)
        ]
        random.Random(7).shuffle(jobs)
        engine.jobs.enqueue_many(jobs)
        assert sum(at_once(*[lambda engine: engine.jobs.promote(NOW)] * 4)) == 500
        assert engine.jobs.next_due() is None


def test_a_written_time_follows_the_settings_within_the_second(engine: Engine) -> None:
    [first] = enqueue(engine, run_after=NOW, state=State.SCHEDULED)
    with override_settings(USE_TZ=False, TIME_ZONE="America/Chicago"):
        [second] = enqueue(engine, run_after=NOW, state=State.SCHEDULED)
        naive = Job.objects.get(id=second).run_after
        assert naive == datetime(2025, 12, 31, 18, 0, 0, 250_000)
    assert Job.objects.get(id=first).run_after == datetime.fromtimestamp(NOW, UTC)
    [third] = enqueue(engine, run_after=NOW, state=State.SCHEDULED)
    assert Job.objects.get(id=third).run_after == datetime.fromtimestamp(NOW, UTC)
