"""The ledger keeps its three invariants: outcomes until they are committed, claims until their end is written,
and all writes on the coordinator's thread."""

from __future__ import annotations

import time
from uuid import UUID

import pytest
from django.db import connections

from djjp.consumer.ledger import Ledger
from djjp.engine import Claimed, Engine, Outcome, Progress
from djjp.models import Flag, Job, State
from tests.support.engine_calls import (
    NOW,
    at_once,
    claim,
    done,
    enqueue,
    everything,
    failed,
    register_consumer,
    row,
)


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    return Ledger(engine, "host:7:one")


def hold(engine: Engine, ledger: Ledger, count: int = 1) -> list[Claimed]:
    """Claim new jobs and record the committed claim."""
    enqueue(engine, count)
    jobs = claim(engine, ledger.owner, count)
    ledger.hold(jobs)
    return jobs


def write(engine: Engine, ledger: Ledger, *, fails: bool = False) -> list[Outcome]:
    """Write everything that waits, as a turn does, and return the outcomes of jobs that run again."""
    batch = ledger.batch()
    with engine.db.transaction():
        accepted = ledger.write_outcomes(batch)
        ledger.write_releases(batch)
        if fails:
            raise Refused
    return ledger.forget_written(batch, accepted)


class Refused(Exception):
    """The transaction of a turn fails."""


def rescue(engine: Engine, consumer: str) -> None:
    peer = register_consumer(engine, consumer)
    engine.rescue.rescue_jobs(peer, NOW, max_rescues=3, started=None)


# An outcome leaves memory only when the transaction that wrote it has committed


def test_an_outcome_stays_in_memory_when_its_transaction_fails(
    engine: Engine, ledger: Ledger
) -> None:
    [job] = hold(engine, ledger)
    ledger.report(done(job))

    for _ in range(2):
        with pytest.raises(Refused):
            write(engine, ledger, fails=True)
        assert [outcome.claimed for outcome in ledger.batch().outcomes] == [job]
        assert (ledger.has_writes, ledger.executed) == (True, 0)
        assert row(job.id)["state"] == "running"

    assert write(engine, ledger) == []
    assert (ledger.has_writes, ledger.executed) == (False, 1)
    assert ledger.batch().is_empty()
    assert row(job.id)["state"] == "succeeded"


def test_an_outcome_that_is_reported_during_a_turn_is_written_by_the_next_turn(
    engine: Engine, ledger: Ledger
) -> None:
    first, second = hold(engine, ledger, 2)
    ledger.report(done(first))
    batch = ledger.batch()
    ledger.report(done(second))
    with engine.db.transaction():
        accepted = ledger.write_outcomes(batch)
    ledger.forget_written(batch, accepted)

    assert [outcome.claimed for outcome in ledger.batch().outcomes] == [second]
    assert ledger.held() == [second]
    write(engine, ledger)
    assert set(Job.objects.values_list("state", flat=True)) == {"succeeded"}
    assert ledger.executed == 2


def test_progress_that_is_reported_during_a_turn_is_written_by_the_next_turn(
    engine: Engine, ledger: Ledger
) -> None:
    [job] = hold(engine, ledger)
    ledger.report_progress(Progress(job, 1, 3))
    batch = ledger.batch()
    ledger.report_progress(Progress(job, 2, 3))
    with engine.db.transaction():
        accepted = ledger.write_outcomes(batch)
    ledger.forget_written(batch, accepted)
    assert row(job.id)["progress_done"] == 1

    write(engine, ledger)
    assert row(job.id)["progress_done"] == 2
    assert ledger.batch().is_empty()


def test_outcomes_of_jobs_that_run_again_are_returned(engine: Engine, ledger: Ledger) -> None:
    again, final = hold(engine, ledger, 2)
    retry = failed(again)._replace(state=State.READY)
    ledger.report(retry)
    ledger.report(failed(final))

    assert write(engine, ledger) == [retry]
    assert len(ledger) == 0


def test_of_many_dropped_outcomes_ten_are_logged_one_by_one(
    engine: Engine, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = hold(engine, ledger, 12)
    rescue(engine, ledger.owner)
    for job in jobs:
        ledger.report(done(job))
    write(engine, ledger)

    *shown, last = caplog.messages
    assert shown == [
        f"{job.name} {job.id} is no longer ours; its outcome is dropped" for job in jobs[:10]
    ]
    assert last == "2 more jobs are no longer ours; their outcomes are dropped"


def test_a_refused_outcome_is_dropped_and_logged(
    engine: Engine, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    [job] = hold(engine, ledger)
    rescue(engine, ledger.owner)
    ledger.report(failed(job)._replace(state=State.READY))

    assert write(engine, ledger) == [], "a job of another consumer is not this one's to run again"
    assert f"{job.id} is no longer ours; its outcome is dropped" in caplog.text
    assert (len(ledger), ledger.has_writes) == (0, False)
    assert row(job.id)["attempts"] == 1


# A claimed job is in the ledger from the commit of its claim to the commit that writes its end


def test_a_job_is_held_until_its_outcome_is_committed(engine: Engine, ledger: Ledger) -> None:
    first, second = hold(engine, ledger, 2)
    assert ledger.held() == [first, second]
    assert ledger.held([second.key, (UUID(int=1), 1)]) == [second]

    ledger.report(done(first))
    with pytest.raises(Refused):
        write(engine, ledger, fails=True)
    assert ledger.held() == [first, second]

    write(engine, ledger)
    assert ledger.held() == [second]


def test_a_job_is_held_until_its_return_is_committed(engine: Engine, ledger: Ledger) -> None:
    kept, returned = hold(engine, ledger, 2)
    ledger.release_in_turn([returned])
    assert ledger.has_writes
    with pytest.raises(Refused):
        write(engine, ledger, fails=True)
    assert (len(ledger), ledger.batch().releases) == (2, [returned])
    assert row(returned.id)["state"] == "running"

    write(engine, ledger)
    assert (ledger.held(), ledger.has_writes, ledger.executed) == ([kept], False, 0)
    assert (row(returned.id)["state"], row(returned.id)["attempts"]) == ("ready", 0)


def test_a_job_that_is_released_at_once_stays_in_the_ledger(engine: Engine, ledger: Ledger) -> None:
    """Its thread runs on, and the fence refuses its outcome."""
    [job] = hold(engine, ledger)
    ledger.release_now([job])
    assert ledger.held() == [job]
    assert row(job.id)["state"] == "ready"

    ledger.report(done(job))
    write(engine, ledger)
    assert (ledger.held(), row(job.id)["state"]) == ([], "ready")


def test_a_claim_whose_commit_was_not_confirmed_is_released(engine: Engine, ledger: Ledger) -> None:
    [held] = hold(engine, ledger)
    [unconfirmed] = enqueue(engine)
    claim(engine, ledger.owner)

    ledger.reconcile()

    assert (row(unconfirmed)["state"], row(unconfirmed)["attempts"]) == ("ready", 0)
    assert (row(held.id)["state"], ledger.held()) == ("running", [held])


def test_disowned_jobs_are_not_written_and_the_ledger_continues_under_a_new_name(
    engine: Engine, ledger: Ledger
) -> None:
    running, waiting = hold(engine, ledger, 2)
    rescue(engine, ledger.owner)

    ledger.disown([waiting], "host:7:two")

    assert (ledger.owner, len(ledger), ledger.disowned) == ("host:7:two", 0, 1)
    ledger.report(done(running))
    batch = ledger.batch()
    assert (batch.reported, batch.outcomes) == ([done(running)], [])
    write(engine, ledger)
    assert not ledger.has_writes
    assert ledger.disowned == 0
    assert {row(job.id)["state"] for job in (running, waiting)} == {"ready"}


def test_a_job_that_is_claimed_anew_is_held_when_its_disowned_run_ends(
    engine: Engine, ledger: Ledger
) -> None:
    [old] = hold(engine, ledger)
    rescue(engine, ledger.owner)
    ledger.disown([], "host:7:two")
    [new] = claim(engine, ledger.owner)
    ledger.hold([new])
    assert (new.id, new.attempt) == (old.id, old.attempt + 1)

    ledger.report(done(old, '"old"'))
    write(engine, ledger)
    assert (ledger.held(), row(new.id)["state"]) == ([new], "running")

    ledger.report(done(new, '"new"'))
    write(engine, ledger)
    assert (ledger.held(), row(new.id)["result"]) == ([], '"new"')


# Only the coordinator's thread writes to the database


def test_the_threads_of_jobs_wake_the_coordinator_and_use_no_connection(engine: Engine) -> None:
    woken: list[None] = []
    ledger = Ledger(engine, "host:7:one", lambda: woken.append(None))
    ended, returned = hold(engine, ledger, 2)
    before = everything()

    def work(own: Engine) -> object:
        assert ledger.may_start(ended)
        ledger.report_progress(Progress(ended, 1, None))
        assert woken == [], "progress is written with the next turn"
        ledger.report(done(ended))
        ledger.release_in_turn([returned])
        return connections[own.db.alias].connection

    assert at_once(work) == [None]
    assert len(woken) == 1
    assert everything() == before

    write(engine, ledger)
    assert (row(ended.id)["state"], row(returned.id)["state"]) == ("succeeded", "ready")


def test_a_job_that_misses_its_start_deadline_is_released_by_the_next_turn(
    engine: Engine,
) -> None:
    woken: list[None] = []
    ledger = Ledger(engine, "host:7:one", lambda: woken.append(None))
    enqueue(engine)
    [claimed] = claim(engine, ledger.owner)
    job = claimed._replace(flags=claimed.flags | Flag.RATE_LIMITED)
    ledger.hold([job])
    ledger.deadlines.add(time.monotonic() - 60, 1.0, [job], {job.id: NOW})

    assert ledger.may_start(job) is False
    assert ledger.batch().releases == []
    ledger.put_off(job)
    assert (ledger.batch().releases, len(woken)) == ([job], 1)
    assert row(job.id)["state"] == "running"

    write(engine, ledger)
    assert (row(job.id)["state"], len(ledger)) == ("ready", 0)
