"""A job in an outbox can be cancelled like a job in the queue."""

from __future__ import annotations

import pytest
from django.db import transaction

from djjp import chain, get_job
from djjp.engine import Engine
from djjp.exceptions import JobCancelled, JobDoesNotExist, OutboxUnavailable
from djjp.ids import new_id
from djjp.jobs import enqueue
from djjp.jobs.handles import JobHandle
from djjp.models import Job
from djjp.outbox import pending, relay
from tests.outbox.conftest import Application, execute, go_away, queued, undone
from tests.project.shop.jobs import add, echo


def test_a_job_that_is_cancelled_in_its_own_transaction_never_runs(
    engine: Engine, application: Application
) -> None:
    with transaction.atomic(application.alias):
        execute(application.alias)
        handle = add.run_later(1)
        other = add.run_later(2)
        handle.cancel()
        assert handle.state == "cancelled"
    assert set(queued()) == {handle.id, other.id}
    row = Job.objects.get(pk=handle.id)
    assert (row.state, row.attempts) == ("cancelled", 0)
    assert row.finished_at is not None
    with pytest.raises(JobCancelled, match="cancelled on request"):
        handle.join(0)
    assert get_job(other.id).state == "ready"


def test_a_cancellation_vanishes_with_the_savepoint_that_it_was_made_in(
    engine: Engine, application: Application
) -> None:
    with transaction.atomic(application.alias):
        execute(application.alias)
        handle = add.run_later(1)
        with undone(application.alias):
            handle.cancel()
    handle.refresh()
    assert handle.state == "ready"


def test_a_job_that_was_left_in_the_outbox_is_cancelled_from_elsewhere(
    engine: Engine, application: Application
) -> None:
    enqueue._paused_until = float("inf")  # this process leaves relaying to others
    with transaction.atomic(application.alias):
        execute(application.alias)
        handle = add.run_later(1)
    assert queued() == []

    handle.cancel()

    assert handle.state == "cancelled"
    assert (queued(), application.waiting()) == ([handle.id], 0)
    assert relay.sweep([application.alias]) == 0


def test_a_pipeline_in_the_outbox_is_cancelled_whole(
    engine: Engine, application: Application
) -> None:
    with transaction.atomic(application.alias):
        execute(application.alias)
        handle = chain(add.bind(1), echo.bind()).run_later()
        handle.cancel()
    assert [step.state for step in handle.steps] == ["cancelled", "cancelled"]
    assert not Job.objects.filter(finished_at=None).exists()


def test_an_outbox_that_is_away_matters_only_to_jobs_that_may_be_in_it(
    engine: Engine, application: Application
) -> None:
    handle, unknown = add.run_later(1), new_id()
    text = f"the outbox of '{application.alias}' does not answer, and the job may be there"
    come_back = go_away(application.alias)
    try:
        handle.cancel()
        handle.cancel()
        assert handle.state == "cancelled"
        for call in (
            lambda: get_job(unknown),
            JobHandle(unknown).cancel,
            lambda: pending.cancel_waiting([unknown]),
        ):
            with pytest.raises(OutboxUnavailable, match=text):
                call()
    finally:
        come_back()
    with pytest.raises(JobDoesNotExist):
        get_job(unknown)
