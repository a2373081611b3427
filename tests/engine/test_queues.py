"""The engine's verbs on queues, and `djjp.queues`, which users call."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest

from djjp import queues
from djjp.engine import Engine
from djjp.models import Job, Queue, State
from tests.support.engine_calls import NOW, at_once, claim, enqueue
from tests.support.factories import new_job
from tests.support.processes import eventually

# Queues with ready jobs


def test_the_queues_with_ready_jobs_are_found_each_once_in_order(engine: Engine) -> None:
    assert engine.queues.with_ready() == []
    for name in ["mail", "a b", "ünïcode", "Mail", "mail.x", "", "10"]:
        enqueue(engine, 3, queue=name)
    enqueue(engine, queue="later", state=State.SCHEDULED, run_after=NOW + 60)
    enqueue(engine, queue="waiting", state=State.BLOCKED)
    enqueue(engine, queue="gone", state=State.CANCELLED)

    found = engine.queues.with_ready()

    assert sorted(found) == sorted(["mail", "a b", "ünïcode", "Mail", "mail.x", "", "10"])
    assert [engine.queues.with_ready(most) for most in (1, 3, 7, 8)] == [
        found[:1],
        found[:3],
        found,
        found,
    ]


def test_a_claim_from_more_queues_than_a_statement_takes_reaches_its_limit(
    engine: Engine,
) -> None:
    names = [f"tenant-{number:04}" for number in range(450)]
    jobs = [new_job(queue=name, priority=-place) for name in names for place in (0, 1)]
    engine.jobs.enqueue_many(jobs)

    taken = claim(engine, limit=900, queues=engine.queues.with_ready())

    assert len(taken) == 900
    order = sorted(jobs, key=lambda job: (-job.priority, job.id))
    assert [job.id for job in taken[:400]] == [job.id for job in order[:400]]


# Pausing


def test_a_queue_is_paused_until_it_is_resumed(engine: Engine) -> None:
    assert queues.pause("mail") is None
    assert queues.paused() == {"mail": None}
    assert engine.queues.paused(time.time() + 1e8) == {"mail"}

    assert queues.resume("mail")
    assert (queues.paused(), engine.queues.paused(NOW)) == ({}, frozenset())
    assert not queues.resume("mail")
    assert not queues.resume("never seen")


def test_a_pause_with_an_end_ends_automatically(engine: Engine) -> None:
    before = time.time()
    ends = queues.pause("mail", timedelta(minutes=5))
    assert ends is not None
    assert 300 <= ends.timestamp() - before < 330
    assert queues.paused() == {"mail": ends}

    assert engine.queues.paused(ends.timestamp() - 0.001) == {"mail"}
    assert engine.queues.paused(ends.timestamp()) == frozenset()


def test_a_pause_that_has_ended_cannot_be_resumed(engine: Engine) -> None:
    engine.queues.pause("mail", NOW, NOW + 1)
    assert queues.paused() == {}
    assert not queues.resume("mail")
    assert not Queue.objects.exists()


def test_the_outlook_of_a_consumer_names_the_paused_queues(engine: Engine) -> None:
    assert engine.jobs.outlook(NOW) == (None, False, frozenset())

    engine.queues.pause("mail", NOW, None)
    engine.queues.pause("reports", NOW, NOW + 60)
    enqueue(engine, state=State.SCHEDULED, run_after=NOW + 5)

    assert engine.jobs.outlook(NOW) == (NOW + 5, False, frozenset({"mail", "reports"}))
    assert engine.jobs.outlook(NOW + 61) == (NOW + 5, False, frozenset({"mail"}))


def test_the_last_pause_counts(engine: Engine) -> None:
    queues.pause("mail", 60)
    queues.pause("mail")
    assert queues.paused() == {"mail": None}
    ends = queues.pause("mail", 60)
    assert queues.paused() == {"mail": ends}
    assert Queue.objects.count() == 1


def test_concurrent_pauses_and_resumes_of_one_queue_do_no_harm(engine: Engine) -> None:
    at_once(
        *[lambda engine: engine.queues.pause("mail", NOW, None)] * 4,
        *[lambda engine: engine.queues.resume("mail", NOW)] * 2,
    )
    assert Queue.objects.count() <= 1


@pytest.mark.parametrize("name", ["", "x" * 101, None, 5, "report.*"])
def test_an_invalid_name_is_not_paused(engine: Engine, name: Any) -> None:
    with pytest.raises(ValueError, match=r"^the queue is "):
        queues.pause(name)
    assert not Queue.objects.exists()


@pytest.mark.parametrize("duration", [0, -1, float("nan"), float("inf"), 1e300, timedelta.max])
def test_a_pause_must_end_in_the_future(engine: Engine, duration: Any) -> None:
    with pytest.raises(ValueError, match=r"^duration is .*; it must be above 0"):
        queues.pause("mail", duration)
    assert not Queue.objects.exists()


def test_a_pause_changes_no_job(engine: Engine) -> None:
    enqueue(engine, 2, queue="mail")
    before = list(Job.objects.order_by("pk").values())
    queues.pause("mail")
    assert list(Job.objects.order_by("pk").values()) == before


@pytest.mark.parametrize("what", ["pause", "resume"])
def test_idle_consumers_are_woken_by_a_resume(engine: Engine, what: str) -> None:
    engine.queues.pause("mail", NOW, None)
    listener = engine.db.listener()
    while listener.woken():
        pass
    verbs = {
        "pause": lambda engine: engine.queues.pause("bulk", NOW, None),
        "resume": lambda engine: engine.queues.resume("mail", NOW),
    }
    at_once(verbs[what])
    eventually(listener.woken)
