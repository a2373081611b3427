"""Unique keys inside transactions: whose job comes into the queue second comes in cancelled, and says why."""

from __future__ import annotations

import pytest
from django.db import transaction

from djjp import chain, run_many
from djjp.engine import Engine
from djjp.exceptions import JobCancelled
from tests.outbox.conftest import Application, execute, queued, undone, waiting
from tests.project.shop.jobs import add, import_from


def test_of_two_in_one_transaction_the_first_has_the_key(
    engine: Engine, application: Application
) -> None:
    with transaction.atomic(application.alias):
        execute(application.alias)
        first, other, second = run_many(import_from.bind(key) for key in ("a", "b", "a"))
        plain = add.run_later(1)
        assert len({first.id, other.id, second.id}) == 3
    assert len(queued()) == 4
    with pytest.raises(JobCancelled, match=f"job {first.id} has its unique key"):
        second.join(0)
    for handle in (first, other, plain):
        handle.refresh()
        assert handle.state == "ready"
    assert application.waiting() == 0


def test_one_whose_key_was_taken_meanwhile_is_cancelled_with_the_data_unharmed(
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


def test_one_that_vanishes_with_its_savepoint_takes_no_key(
    engine: Engine, application: Application
) -> None:
    with transaction.atomic(application.alias):
        execute(application.alias)
        with undone(application.alias):
            import_from.run_later("a")
        kept = import_from.run_later("a")
    kept.refresh()
    assert (kept.state, queued()) == ("ready", [kept.id])


def test_a_pipeline_with_one_is_refused_before_anything_is_written(engine: Engine) -> None:
    with transaction.atomic():
        with pytest.raises(ValueError, match="no step of a pipeline can have one"):
            chain(add.bind(1), import_from.bind()).run_later()
        assert waiting() == []
