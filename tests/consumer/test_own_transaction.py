"""Jobs that use the queue inside a transaction of the queue's own database."""

from __future__ import annotations

from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction

from djjp import chain, group, run_many
from djjp.engine import Engine
from djjp.exceptions import JobFailed
from djjp.models import Job, Queue
from tests.project.shop.jobs import add, echo, fail, use_queue_in_transaction
from tests.support.consumers import drain
from tests.support.processes import Processes

pytestmark = pytest.mark.both_databases


def test_handles_inside_a_transaction_of_the_queue_use_that_transaction(
    processes: Processes, engine: Engine
) -> None:
    waiting = add.using(run_after=timedelta(hours=1), queue="closed").run_later(1)
    consumer = processes.consumer("--concurrency-limit", "2")

    # A call that waited for the consumer's coordinator would wait for 30 seconds on SQLite.
    *reports, refusal = use_queue_in_transaction.run_later(str(waiting.id)).join(30)

    assert reports == ["ready", "scheduled", "cancelled", "ready", "closed"]
    assert "cannot start before its commit" in refusal
    assert Queue.objects.filter(name="closed").exists()
    assert processes.end(consumer)[0] == 0


def test_what_they_change_is_rolled_back_with_the_transaction(
    processes: Processes, engine: Engine
) -> None:
    waiting = add.using(run_after=timedelta(hours=1)).run_later(1)
    processes.consumer("--concurrency-limit", "2")

    with pytest.raises(JobFailed, match="undo all of it"):
        use_queue_in_transaction.run_later(str(waiting.id), fails=True).join(30)

    waiting.refresh()
    assert waiting.state == "scheduled"
    assert not Queue.objects.exists()
    assert Job.objects.count() == 2


@pytest.mark.parametrize("place", ["the application's", "the queue's"])
def test_join_in_the_transaction_that_enqueued_or_retried_the_job_raises_at_once(
    engine: Engine, place: str
) -> None:
    alias = "default" if place == "the application's" else engine.db.alias
    failed = fail.run_later("it broke")
    drain()
    with transaction.atomic(using=alias):
        single = add.run_later(1)
        [many] = run_many([add.bind(1)])
        pipeline = chain(add.bind(1), add.bind()).run_later()
        group_of_two = group(add.bind(1), add.bind(2)).run_later()
        first, _ = group_of_two.steps
        with transaction.atomic(using=alias):
            for handle in (single, many, pipeline, group_of_two, first):
                with pytest.raises(TimeoutError, match=f"the open transaction of '{alias}'"):
                    handle.join(60)
        if alias == engine.db.alias:
            failed.retry()
            with pytest.raises(TimeoutError, match=f"the open transaction of '{alias}'"):
                failed.join(60)

    for handle in (single, group_of_two):
        with pytest.raises(TimeoutError, match="after 0 s"):
            handle.join(0)
    drain()
    assert single.join(60) == 1
    assert group_of_two.join(60) == [1, 2]


@pytest.mark.parametrize("place", ["the application's", "the queue's"])
def test_ajoin_in_the_transaction_that_enqueued_the_job_raises_at_once(
    engine: Engine, place: str
) -> None:
    alias = "default" if place == "the application's" else engine.db.alias

    async def enqueue_and_join() -> None:
        for handle in (
            await add.arun_later(1),
            await chain(add.bind(1), add.bind()).arun_later(),
            await group(add.bind(1), add.bind(2)).arun_later(),
        ):
            with pytest.raises(TimeoutError, match=f"the open transaction of '{alias}'"):
                await handle.ajoin(60)

    with transaction.atomic(using=alias):
        async_to_sync(enqueue_and_join)()


def test_join_of_an_earlier_job_in_a_transaction_raises_where_its_end_cannot_be_seen(
    engine: Engine,
) -> None:
    handle = echo.run_later()

    with transaction.atomic(using=engine.db.alias):
        on_sqlite = engine.db.alias == "sqlite"
        why = "its end cannot be seen" if on_sqlite else "after 0.1 s"
        with pytest.raises(TimeoutError, match=why):
            handle.join(60 if on_sqlite else 0.1)
