"""Inside `atomic()` a job commits or vanishes with the data, and is in the queue right after the commit."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TypeVar

import pytest
from asgiref.sync import sync_to_async
from django.core.handlers.base import BaseHandler
from django.db import connection, connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

import djjp.engine
from djjp import JobHandle, arun_many, get_job, run_many
from djjp.engine import Engine
from djjp.exceptions import JobDoesNotExist
from djjp.models import Job, Relayed
from djjp.outbox import relay
from tests.outbox.conftest import Application, execute, executions, go_away, queued, undone, waiting
from tests.project.shop.jobs import add, echo, mail

pytestmark = pytest.mark.both_databases

T = TypeVar("T")


def test_a_job_enters_the_queue_with_the_commit(engine: Engine, application: Application) -> None:
    with transaction.atomic(application.alias):
        execute(application.alias)
        handle = add.run_later(1, b=2)
        assert queued() == []
        assert application.waiting() == 1

    assert queued() == [handle.id]
    assert application.waiting() == 0
    row = Job.objects.get()
    assert (row.name, row.queue, row.state) == (add.name, "default", "ready")
    assert row.arguments == add.bind(1, b=2).arguments


def test_a_job_vanishes_with_the_data(engine: Engine, application: Application) -> None:
    with undone(application.alias):
        execute(application.alias)
        handle = add.run_later(1)

    assert executions(application.alias) == application.waiting() == len(queued()) == 0
    with pytest.raises(JobDoesNotExist):
        handle.refresh()


def test_outside_a_transaction_the_outbox_is_not_used(engine: Engine) -> None:
    with CaptureQueriesContext(connection) as captured:
        handle = add.run_later(1)

    assert captured.captured_queries == []
    assert queued() == [handle.id]
    assert not Relayed.objects.exists()


def test_all_values_of_a_row_arrive(engine: Engine) -> None:
    later = mail.using(queue="bulk", priority=-3, run_after=timedelta(hours=1))
    with transaction.atomic():
        relayed = later.run_later("a\x00\N{SNOWMAN}")
    straight = later.run_later("a\x00\N{SNOWMAN}")

    own = {"id", "created_at", "run_after"}
    rows = [Job.objects.get(pk=handle.id) for handle in (relayed, straight)]
    fields = [field.name for field in Job._meta.concrete_fields if field.name not in own]
    one, other = ({name: getattr(row, name) for name in fields} for row in rows)
    assert one == other
    for row in rows:
        assert row.run_after is not None
        assert row.run_after - row.created_at == timedelta(hours=1)


def test_a_job_of_a_rolled_back_savepoint_vanishes_with_it(
    engine: Engine, application: Application
) -> None:
    with transaction.atomic(application.alias):
        first = add.run_later(1)
        with undone(application.alias):
            add.run_later(2)
            with transaction.atomic(application.alias):
                add.run_later(3)
        with transaction.atomic(application.alias):
            last = add.run_later(4)

    assert queued() == [first.id, last.id]
    assert application.waiting() == 0


@pytest.mark.borrowed
def test_a_job_behind_a_rolled_back_savepoint_is_relayed_though_it_was_the_first_to_be_lost(
    engine: Engine,
) -> None:
    with transaction.atomic():
        with undone():
            add.run_later(1)
        handle = add.run_later(2)

    assert queued() == [handle.id]
    assert waiting() == []


def test_the_jobs_of_a_savepoint_rolled_back_by_hand_vanish(engine: Engine) -> None:
    with transaction.atomic():
        first = add.run_later(1)
        savepoint = connection.savepoint()
        assert savepoint is not None
        add.run_later(2)
        connection.savepoint_rollback(savepoint)

    assert queued() == [first.id]
    assert waiting() == []


def test_one_transaction_after_another_relays_its_own(engine: Engine) -> None:
    with undone():
        add.run_later(1)
    with transaction.atomic():
        second = add.run_later(2)
    assert queued() == [second.id]
    with transaction.atomic():
        third = add.run_later(3)
    assert queued() == [second.id, third.id]


def test_later_transactions_do_not_query_for_rolled_back_jobs(engine: Engine) -> None:
    with undone():
        lost = add.run_later(1)
    with CaptureQueriesContext(connection) as captured, transaction.atomic():
        add.run_later(2)
    assert not [q for q in captured.captured_queries if lost.id.hex in q["sql"]]


def test_a_durable_block_counts_as_a_transaction(engine: Engine) -> None:
    with transaction.atomic(durable=True):
        handle = add.run_later(1)
    assert queued() == [handle.id]


def test_many_jobs_of_a_block_are_relayed_as_one_batch(engine: Engine) -> None:
    with CaptureQueriesContext(connections[engine.db.alias]) as captured, transaction.atomic():
        handles: list[JobHandle] = [add.run_later(i) for i in range(20)]
        handles += run_many(echo.bind(i) for i in range(20))
    assert queued() == [handle.id for handle in handles]
    assert waiting() == []
    notes = [q for q in captured.captured_queries if "djjp_relayed" in q["sql"]]
    assert len(notes) == 1


def test_an_enqueue_adds_one_insert_to_the_request(engine: Engine) -> None:
    with CaptureQueriesContext(connection) as captured, transaction.atomic():
        add.run_later(1)
        inside = [q["sql"] for q in captured.captured_queries]

    assert [sql.partition(" ")[0] for sql in inside] == ["BEGIN", "INSERT"]


def test_run_many_inside_a_block_is_whole_or_not_at_all(engine: Engine) -> None:
    with transaction.atomic():
        handles = run_many(add.bind(i) for i in range(2500))
        assert len(waiting()) == 2500
    assert queued() == [handle.id for handle in handles]
    assert waiting() == []

    with undone():
        run_many(add.bind(i) for i in range(2500))
    assert len(queued()) == 2500


def test_a_failing_hook_does_not_keep_jobs_from_the_relay(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """Hooks that were registered with `robust=True` too."""

    def fail() -> None:
        raise ZeroDivisionError

    with transaction.atomic():
        transaction.on_commit(fail, robust=True)
        handle = add.run_later(1)

    assert queued() == [handle.id]


def test_a_request_with_atomic_requests_is_a_block(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)

    def view(request: HttpRequest) -> HttpResponse:
        seen.append(add.run_later(1).id)
        assert queued() == []
        return HttpResponse()

    seen: list[object] = []
    BaseHandler().make_view_atomic(view)(HttpRequest())

    assert len(seen) == 1
    assert queued() == seen


def test_coroutines_enqueue_with_the_transaction_of_their_sync_code(engine: Engine) -> None:
    """An async view opens its transaction where Django's own async calls run."""

    async def view(error: BaseException | None) -> list[object]:
        block = transaction.atomic()
        await sync_to_async(block.__enter__)()
        one = await add.arun_later(1)
        many = await arun_many([add.bind(2)])
        assert await sync_to_async(queued)() == []
        assert len(await sync_to_async(waiting)()) == 2
        await sync_to_async(block.__exit__)(type(error) if error else None, error, None)
        await sync_to_async(connections.close_all)()
        return [one.id, *(handle.id for handle in many)]

    asyncio.run(view(ZeroDivisionError()))
    assert queued() == waiting() == []
    committed = asyncio.run(view(None))
    assert queued() == committed


def test_a_transaction_of_another_thread_does_not_count(
    engine: Engine, application: Application
) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def work() -> None:
        with transaction.atomic(application.alias):
            inside.set()
            go_on.wait(30)
        connections.close_all()

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(30)
    handle = add.run_later(1)
    assert queued() == [handle.id]
    go_on.set()
    thread.join()


# Handles


def test_a_handle_and_get_job_find_a_job_that_is_still_in_the_outbox(
    engine: Engine, application: Application
) -> None:
    with transaction.atomic(application.alias):
        ready = add.run_later(1)
        later = mail.using(run_after=timedelta(hours=1)).run_later("a@b.c")
        for handle, state in ((ready, "ready"), (later, "scheduled")):
            handle.refresh()
            assert handle.state == state
            found = get_job(str(handle.id))
            assert (found, found.state) == (handle, state)
            assert (found.attempts, found.result, found.errors) == (0, None, [])

    assert get_job(later.id).state == "scheduled"


def test_get_job_of_a_missing_id_raises(engine: Engine) -> None:
    handle = add.run_later(1)
    Job.objects.all().delete()
    with pytest.raises(JobDoesNotExist):
        get_job(handle.id)


def test_join_inside_the_block_times_out(engine: Engine) -> None:
    with transaction.atomic():
        handle = add.run_later(1)
        with pytest.raises(TimeoutError, match="still ready"):
            handle.join(timeout=0.01)


# The queue in the application's database


def test_a_queue_in_the_transactions_own_database_is_written_directly(engine: Engine) -> None:
    """The alias of the queue is in a transaction: neither the outbox nor a hook takes part."""
    with override_settings(DJJP={"db_name": engine.db.alias}):
        with undone(engine.db.alias):
            handle = add.run_later(1)
            assert queued() == [handle.id]
        assert queued() == waiting() == []
        with transaction.atomic(engine.db.alias):
            handle = add.run_later(1)
            assert connections[engine.db.alias].run_on_commit == []
        assert queued() == [handle.id]


class Elsewhere:
    """Call the engine on a connection of its own, as a consumer's coordinator does."""

    def call(self, verb: Callable[[Engine], T]) -> T:
        def work() -> T:
            try:
                return verb(djjp.engine.current())
            finally:
                connections.close_all()

        with ThreadPoolExecutor(1) as threads:
            return threads.submit(work).result(60)

    async def acall(self, verb: Callable[[Engine], T]) -> T:
        return await asyncio.to_thread(self.call, verb)


@pytest.fixture
def inside_a_job(engine: Engine) -> Iterator[None]:
    token = djjp.engine.current_call_queue.set(Elsewhere())
    yield
    djjp.engine.current_call_queue.reset(token)


def test_a_running_job_relays_through_its_coordinator(
    engine: Engine, application: Application, inside_a_job: None
) -> None:
    connections[engine.db.alias].close()
    with transaction.atomic(application.alias):
        handle = add.run_later(1)
        assert get_job(handle.id).state == "ready"
    assert (
        connections[engine.db.alias].connection is None
    )  # its thread needs no connection to the queue
    assert queued() == [handle.id]


# When the relay fails


def test_an_unreachable_queue_fails_no_request_and_loses_no_job(
    engine: Engine,
    application: Application,
    caplog: pytest.LogCaptureFixture,
) -> None:
    come_back = go_away(engine.db.alias)
    try:
        with caplog.at_level(logging.WARNING, "djjp.outbox"):
            with transaction.atomic(application.alias):
                execute(application.alias)
                first = add.run_later(1)
            with transaction.atomic(application.alias):
                second = add.run_later(2)
        assert executions(application.alias) == 1
        assert application.waiting() == 2
        (said,) = caplog.messages  # the second relay was not even tried
        assert "1 jobs stay in the outbox" in said
        first.refresh()
        assert first.state == "ready"
        assert get_job(second.id).state == "ready"
    finally:
        come_back()

    assert relay.sweep() == 2
    assert queued() == [first.id, second.id]
    assert application.waiting() == 0
