"""A claim has an identity of its own: a job that is claimed anew is never taken for its last execution."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import OperationalError

from djjp.consumer.consumer import Consumer
from djjp.consumer.ledger import Ledger
from djjp.consumer.rescue import rescue
from djjp.engine import Claimed, Engine
from djjp.models import Attempt, Job
from tests.project.shop.jobs import add, nap
from tests.support.consumers import consuming
from tests.support.engine_calls import claim, done, enqueue, failed, finish, release, row
from tests.support.jobs import registered
from tests.support.processes import eventually

pytestmark = pytest.mark.both_databases


@contextmanager
def answer_lost(consumer: Consumer, engine: Engine) -> Iterator[threading.Event]:
    """Lose the answer to the commit after which a job runs for the second time; the event tells when."""
    lost = threading.Event()
    transaction = engine.db.transaction

    @contextmanager
    def losing() -> Iterator[None]:
        with transaction():
            yield
        if not lost.is_set() and Job.objects.filter(state="running", attempts=2).exists():
            lost.set()
            raise OperationalError("server closed the connection unexpectedly")

    consumer._engine.db.transaction = losing  # type: ignore[method-assign]
    try:
        yield lost
    finally:
        del consumer._engine.db.transaction


def test_a_job_that_a_turn_ended_and_claimed_anew_runs_although_the_answer_to_its_commit_was_lost(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """The turn writes the failure, which makes the job ready at once, and claims it again."""
    runs: list[int] = []

    def flaky() -> int:
        runs.append(len(runs))
        if len(runs) == 1:
            raise ValueError("not yet")
        return len(runs)

    with registered("test.flaky", flaky, max_attempts=2, backoff=0) as function:
        handle = function.run_later()
        consumer = Consumer(1, drain=True)
        with answer_lost(consumer, engine) as lost:
            assert consumer.run()

    assert lost.is_set()
    assert handle.join(0) == 2
    assert (handle.attempts, runs) == (2, [0, 1])
    assert Attempt.objects.count() == 1


def test_a_consumer_frozen_between_the_commit_of_a_claim_and_its_start_runs_the_job_when_it_wakes(
    engine: Engine,
) -> None:
    """Others have declared it dead and given the job back; it claims the job under its new name."""
    with consuming(1) as consumer:
        start = consumer._turn._start

        def freeze(admitted: Any) -> None:
            if admitted.jobs and consumer.executed == 0 and not frozen.is_set():
                frozen.set()
                woken.wait(30)
            start(admitted)

        frozen, woken = threading.Event(), threading.Event()
        consumer._turn._start = freeze  # type: ignore[method-assign]
        handle = nap.run_later(0.0)
        assert frozen.wait(30)
        [peer] = engine.consumers.peers()
        assert rescue(engine, peer)
        assert Job.objects.get().state == "ready"
        consumer._maintenance.after_outage()  # its heartbeat is overdue
        woken.set()

        handle.join(30)
        assert handle.attempts == 1
        # Its slot is free again.
        assert add.run_later(7).join(30) == 7
        eventually(lambda: len(consumer._ledger) == 0)


def held(engine: Engine, *jobs: Claimed) -> Ledger:
    ledger = Ledger(engine, "one")
    ledger.open_journal(None, 10)
    ledger.hold(jobs)
    return ledger


def test_two_claims_of_one_job_that_end_together_are_told_apart(engine: Engine) -> None:
    """The last execution still runs here while the job, released and claimed anew, runs a second time."""
    [id] = enqueue(engine)
    [old] = claim(engine)
    release(engine, "one", old)
    [new] = claim(engine)
    ledger = held(engine, old, new)
    assert (len(ledger), old.id == new.id, old.attempt == new.attempt) == (2, True, True)

    ledger.report(done(new, '"new"'))
    ledger.report(failed(old, "of the old claim"))
    batch = ledger.batch()
    with engine.db.transaction():
        refused = ledger.write_outcomes(batch)
    ledger.forget_written(batch, refused)

    assert refused == {old.key}
    assert (row(id)["state"], row(id)["result"]) == ("succeeded", '"new"')
    assert not Attempt.objects.exists()
    assert len(ledger) == 0


@pytest.mark.parametrize("undo", ["release", "retry"])
def test_an_outcome_of_an_earlier_claim_is_refused_although_its_attempt_has_the_same_number(
    engine: Engine, undo: str
) -> None:
    [id] = enqueue(engine)
    [old] = claim(engine)
    if undo == "release":
        release(engine, "one", old)
    else:
        finish(engine, "one", done(old))
        engine.control.retry([id])
    [new] = claim(engine)
    assert (old.attempt, new.attempt, old.claim, new.claim) == (1, 1, 1, 2)

    assert finish(engine, "one", done(old, "1")) == set()
    assert release(engine, "one", old) == set()
    assert row(id)["state"] == "running"
    assert finish(engine, "one", done(new, "2")) == {id}
    assert row(id)["result"] == "2"


def test_what_the_queue_has_by_a_claim_that_the_ledger_does_not_hold_is_given_back(
    engine: Engine,
) -> None:
    enqueue(engine, 3)
    kept, lost, again = claim(engine)
    release(engine, "one", again)
    [anew] = claim(engine)
    ledger = held(engine, kept, again)

    ledger.reconcile()

    states = [(row(job.id)["state"], row(job.id)["attempts"]) for job in (kept, lost, anew)]
    assert states == [("running", 1), ("ready", 0), ("ready", 0)]


def test_a_cancel_reaches_the_claim_that_it_was_requested_for(engine: Engine) -> None:
    enqueue(engine)
    [old] = claim(engine)
    release(engine, "one", old)
    [new] = claim(engine)
    engine.control.cancel([new.id], 1.0)

    assert held(engine, old, new).held(engine.jobs.to_cancel("one")) == [new]
