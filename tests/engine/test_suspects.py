"""Jobs that ran when a consumer died are claimed one by one, and no other claim reads them."""

from __future__ import annotations

import threading
from uuid import UUID

import pytest
from django.db import transaction

from djjp.engine import Engine, Place
from djjp.models import Job
from tests.support.engine_calls import NOW, at_once, claim_suspect, enqueue, row
from tests.support.factories import new_job


def suspect(engine: Engine, rescues: int = 1, **given: object) -> UUID:
    """Enqueue a job as a rescue leaves it."""
    [id] = enqueue(engine, **given)
    Job.objects.filter(pk=id).update(rescues=rescues, attempts=rescues)
    return id


def test_a_claim_takes_no_suspect_and_finds_none(engine: Engine) -> None:
    suspect(engine)
    [fresh] = enqueue(engine)
    with engine.db.transaction():
        assert [job.id for job in engine.jobs.claim("one", 100, NOW)] == [fresh]
    for queues in (None, ["default"], ["default", "other"]):
        assert not engine.jobs.has_ready(queues, [])
        with engine.db.transaction():
            assert engine.jobs.claim("one", 100, NOW, queues=queues) == []
    assert engine.queues.with_ready() == []
    assert engine.queues.with_suspects() == ["default"]
    assert engine.jobs.outlook(NOW) == (None, True, frozenset())


def test_a_suspect_is_claimed_once_as_any_job_is(engine: Engine) -> None:
    id = suspect(engine, rescues=2)
    place = engine.suspects.first(["default"])
    assert place == Place(id, "default", 0)
    with engine.db.transaction():
        [job] = engine.suspects.claim("one", id, NOW)
    assert (job.id, job.attempt, job.rescues) == (id, 3, 2)
    found = row(id)
    assert (found["state"], found["consumer"], found["attempts"]) == ("running", "one", 3)
    with engine.db.transaction():
        assert engine.suspects.claim("two", id, NOW) == []
    assert engine.suspects.first(["default"]) is None
    assert engine.jobs.outlook(NOW) == (None, False, frozenset())


def test_the_first_suspect_has_the_highest_priority_then_the_fewest_rescues_then_the_longest_wait(
    engine: Engine,
) -> None:
    last = suspect(engine, rescues=1, priority=-1)
    third = suspect(engine, rescues=2, queue="other")
    first, second = suspect(engine, queue="other"), suspect(engine)
    found = []
    while job := claim_suspect(engine):
        found.append(job[0].id)
    assert found == [first, second, third, last]


def test_suspects_of_other_queues_and_unknown_names_are_left(engine: Engine) -> None:
    suspect(engine, queue="other")
    suspect(engine, name="unknown")
    known = suspect(engine)
    assert engine.queues.with_suspects() == ["default", "other"]
    place = engine.suspects.first(["default", "nobody"], ["unknown", "unheard of"])
    assert place is not None
    assert place.id == known
    assert engine.suspects.first(["nobody"]) is None
    assert engine.suspects.first([]) is None


def test_places_of_claimed_jobs(engine: Engine) -> None:
    jobs = [new_job(queue="mail", priority=3), new_job()]
    engine.jobs.enqueue_many(jobs)
    with engine.db.transaction():
        claimed = engine.jobs.claim("one", 2, NOW)
        assert engine.suspects.places(claimed) == {
            jobs[0].id: Place(jobs[0].id, "mail", 3),
            jobs[1].id: Place(jobs[1].id, "default", 0),
        }


@pytest.mark.postgresql_only
def test_a_suspect_that_another_transaction_has_locked_is_not_waited_for(engine: Engine) -> None:
    id = suspect(engine)
    locked, tried = threading.Event(), threading.Event()

    def hold(engine: Engine) -> None:
        with transaction.atomic(using=engine.db.alias):
            list(Job.objects.using(engine.db.alias).select_for_update().filter(pk=id))
            locked.set()
            assert tried.wait(30)

    def attempt(engine: Engine) -> object:
        assert locked.wait(30)
        with engine.db.transaction():
            found = engine.suspects.claim("one", id, NOW)
        tried.set()
        return found

    assert at_once(hold, attempt) == [None, []]
