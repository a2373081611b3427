"""A job in an outbox can be cancelled like a job in the queue."""

from __future__ import annotations

import pytest
from django.db import transaction

from djjp import chain, get_job
from djjp.engine import Engine
from djjp.exceptions import JobCancelled
from djjp.jobs import enqueue
from djjp.models import Job
from djjp.outbox import relay
from tests.outbox.conftest import Application, execute, queued, undone
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
