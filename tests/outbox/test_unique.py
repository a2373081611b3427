"""Unique keys inside transactions: an enqueue gets the handle of the holder, and loses no later data."""

from __future__ import annotations

import pytest
from django.db import transaction

from djjp import chain, run_many
from djjp.engine import Engine
from djjp.exceptions import JobCancelled, QueueUnavailable
from djjp.models import Flag, Job
from tests.outbox.conftest import Application, execute, queued, undone, waiting
from tests.project.shop.jobs import add, import_from


def test_of_two_jobs_in_one_transaction_the_first_has_the_key(
    engine: Engine, application: Application
) -> None:
    with transaction.atomic(application.alias):
        execute(application.alias)
        first, other, second = run_many(import_from.bind(key) for key in ("a", "b", "a"))
        plain = add.run_later(1)
        assert second == first != other
        assert import_from.run_later("a") == first
    assert len(queued()) == 3
    for handle in (first, other, plain):
        handle.refresh()
        assert handle.state == "ready"
    assert application.waiting() == 0


def test_a_job_whose_key_was_taken_meanwhile_is_cancelled_and_the_data_stays(
    engine: Engine, application: Application
) -> None:
    with transaction.atomic(application.alias):
        done = execute(application.alias)
        late = import_from.run_later("a")
        with transaction.atomic(using=engine.db.alias):  # as another process does
            job = import_from.bind("a").to_row()
            engine.jobs.enqueue(job)
    assert type(done).objects.using(application.alias).filter(pk=done.pk).exists()
    with pytest.raises(JobCancelled, match=f"job {job.id} has its unique key"):
        late.join(0)
    engine.control.cancel([job.id], 0)
    late.retry()
    assert late.state == "ready"
    assert import_from.run_later("a") == late


def test_a_job_in_the_queue_has_the_key_and_the_new_one_leaves_no_trace(
    engine: Engine, application: Application
) -> None:
    holder = import_from.run_later("a")
    with transaction.atomic(application.alias):
        execute(application.alias)
        assert import_from.run_later("a") == holder
        assert run_many([import_from.bind("a"), import_from.bind("b")])[0] == holder
    assert (application.waiting(), len(queued())) == (0, 2)
    assert not Job.objects.exclude(state="ready").exists()


def test_a_holder_that_ends_before_the_commit_does_not_hide_the_new_data(
    engine: Engine, application: Application
) -> None:
    """The job that runs after the commit sees what was committed."""
    holder = import_from.run_later("a")
    with transaction.atomic(application.alias):
        execute(application.alias)
        assert import_from.run_later("a") == holder
        with transaction.atomic(using=engine.db.alias):  # as another process does
            engine.control.cancel([holder.id], 0)
    (successor,) = Job.objects.filter(state="ready")
    assert successor.pk != holder.id
    assert not successor.flags & Flag.STAND_IN
    assert import_from.run_later("a").id == successor.pk


def test_a_queue_that_does_not_answer_takes_no_enqueue_along(
    engine: Engine, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(keys: object) -> None:
        raise QueueUnavailable("away")

    holder = import_from.run_later("a")
    monkeypatch.setattr(engine.unique_keys, "holders", away)
    with transaction.atomic(application.alias):
        late = import_from.run_later("a")
        assert late != holder
        monkeypatch.undo()
    with pytest.raises(JobCancelled, match=f"job {holder.id} has its unique key"):
        late.join(0)


def test_the_next_transaction_does_not_take_a_job_that_was_rolled_back_for_the_holder(
    engine: Engine, application: Application
) -> None:
    with undone(application.alias):
        lost = import_from.run_later("a")
    with transaction.atomic(application.alias):
        kept = import_from.run_later("a")
    assert kept != lost
    assert queued() == [kept.id]


def test_a_job_that_vanishes_with_its_savepoint_takes_no_key(
    engine: Engine, application: Application
) -> None:
    with transaction.atomic(application.alias):
        execute(application.alias)
        with undone(application.alias):
            import_from.run_later("a")
        kept = import_from.run_later("a")
    kept.refresh()
    assert (kept.state, queued()) == ("ready", [kept.id])


def test_a_pipeline_with_a_unique_key_is_refused_before_anything_is_written(engine: Engine) -> None:
    with transaction.atomic():
        with pytest.raises(ValueError, match="no step of a pipeline can have one"):
            chain(add.bind(1), import_from.bind()).run_later()
        assert waiting() == []
