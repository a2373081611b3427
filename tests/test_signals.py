"""The signals of jobs and consumers: when and on which thread each is sent; and no receiver harms a job."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connections, transaction
from django.dispatch import Signal

from djjp import chain, expand, job, run_many, signals
from djjp.consumer.consumer import Consumer
from djjp.consumer.scheduler import Scheduler
from djjp.engine import Engine
from djjp.jobs import JobHandle
from djjp.models import Job, State
from djjp.testing import drain as drain_here
from djjp.testing import inline
from tests.project.shop.jobs import add, echo
from tests.support.consumers import consuming, drain
from tests.support.processes import eventually
from tests.support.schedules import by_hand


@job(name="signals.coroutine")
async def coroutine(fail: bool = False) -> None:
    if fail:
        raise KeyError("no")


@job(name="signals.twice", max_attempts=2, backoff=0)
def twice() -> None:
    raise ValueError("no")


@job(name="signals.numbers")
def numbers() -> list[int]:
    return [1, 2]


@job(name="signals.enqueues")
async def enqueues() -> str:
    return str((await add.arun_later(1)).id)


@contextmanager
def received(signal: Signal, sender: object = None) -> Iterator[list[dict[str, Any]]]:
    """Collect what a signal is sent with, and the thread."""
    got: list[dict[str, Any]] = []

    def receiver(**values: Any) -> None:
        got.append({**values, "thread": threading.get_ident()})

    signal.connect(receiver, sender=sender)
    try:
        yield got
    finally:
        signal.disconnect(receiver, sender=sender)


@contextmanager
def raising(*given: Signal, error: type[BaseException] = ValueError) -> Iterator[None]:
    def receiver(**values: Any) -> None:
        raise error("no")

    for signal in given:
        signal.connect(receiver)
    try:
        yield
    finally:
        for signal in given:
            signal.disconnect(receiver)


def ids(got: list[dict[str, Any]]) -> list[Any]:
    return [each["job"].id for each in got]


# job_enqueued


def test_an_enqueue_sends_the_call_on_its_thread(engine: Engine) -> None:
    with received(signals.job_enqueued) as got:
        handle = add.using(queue="mail").run_later(1)
    (sent,) = got
    assert sent["sender"] is add
    assert (sent["job"].id, sent["job"].queue) == (handle.id, "mail")
    assert sent["thread"] == threading.get_ident()


def test_each_job_of_a_batch_and_each_step_of_a_pipeline_is_sent(engine: Engine) -> None:
    with received(signals.job_enqueued) as got:
        handles = run_many([add.bind(1), echo.bind(2)])
        pipeline = chain(numbers.bind(), expand(add), echo.bind()).run_later()
    assert ids(got[:2]) == [handle.id for handle in handles]
    assert [each["sender"] for each in got] == [add, echo, numbers, add, echo]
    assert {each["job"].pipeline for each in got[2:]} == {pipeline.id}


def test_a_receiver_of_one_job_gets_that_job_only(engine: Engine) -> None:
    with received(signals.job_enqueued, sender=add) as got:
        run_many([add.bind(1), echo.bind(2), add.using(priority=1).bind(3)])
    assert [each["job"].name for each in got] == [add.name] * 2


def test_an_enqueue_in_a_transaction_is_sent_after_its_commit(engine: Engine) -> None:
    with received(signals.job_enqueued) as got:
        with transaction.atomic():
            handle = add.run_later(1)
            assert got == []
        assert ids(got) == [handle.id]


def test_an_enqueue_that_is_rolled_back_is_not_sent(engine: Engine) -> None:
    with received(signals.job_enqueued) as got:
        with transaction.atomic():
            with transaction.atomic():
                add.run_later(1)
                transaction.set_rollback(True)
            kept = add.run_later(2)
        assert ids(got) == [kept.id]


def test_a_job_whose_unique_key_is_held_is_not_sent(engine: Engine) -> None:
    unique = add.using(unique_key="k")
    with received(signals.job_enqueued) as got:
        handles = [unique.run_later(1), unique.run_later(2)]
        with transaction.atomic():
            handles.append(unique.run_later(3))
    assert ids(got) == [handles[0].id]
    assert {handle.id for handle in handles} == {handles[0].id}


def test_in_a_testcase_it_is_sent_at_once(engine: Engine) -> None:
    block: Any = transaction.atomic()
    block._from_testcase = True  # as a TestCase marks its own
    with received(signals.job_enqueued) as got, block:
        handle = add.run_later(1)
        assert ids(got) == [handle.id]


@pytest.mark.parametrize("concurrency", ["threads", "asyncio"])
def test_an_enqueue_by_a_coroutine_job_is_sent(engine: Engine, concurrency: str) -> None:
    handle = enqueues.run_later()
    with received(signals.job_enqueued) as got:
        drain(concurrency=concurrency)
    assert [str(id) for id in ids(got)] == [handle.join()]


def test_an_occurrence_of_a_schedule_is_sent_with_its_name(engine: Engine) -> None:
    row = by_hand(add.name, 0.0, cron="* * * * *", tz="UTC", arguments='{"args":[1],"kwargs":{}}')
    with received(signals.job_enqueued) as got:
        assert Scheduler(engine).work(600.0)
        eventually(lambda: got)
    (sent,) = got
    assert sent["job"].schedule == row.name
    assert sent["job"].id == Job.objects.get().id
    assert sent["thread"] != threading.get_ident()


# job_started, job_finished


@pytest.mark.parametrize("called", [add, coroutine])
@pytest.mark.parametrize("concurrency", ["threads", "asyncio"])
def test_a_run_sends_its_start_and_its_end(engine: Engine, called: Any, concurrency: str) -> None:
    handle = called.run_later(0)
    with received(signals.job_started) as started, received(signals.job_finished) as finished:
        drain(concurrency=concurrency)
    (first,), (last,) = started, finished
    assert first["job"] is last["job"]
    assert first["sender"] is last["sender"] is called
    assert (last["job"].id, last["job"].outcome, last["job"].exception) == (
        handle.id,
        "succeeded",
        None,
    )
    assert first["thread"] != threading.get_ident()


@pytest.mark.parametrize("concurrency", ["threads", "asyncio"])
def test_receivers_can_use_the_database(engine: Engine, concurrency: str) -> None:
    counts: list[int] = []

    def receiver(**values: Any) -> None:
        counts.append(Job.objects.filter(state=State.RUNNING).count())

    coroutine.run_later()
    signals.job_started.connect(receiver)
    signals.job_finished.connect(receiver)
    try:
        drain(concurrency=concurrency)
    finally:
        signals.job_started.disconnect(receiver)
        signals.job_finished.disconnect(receiver)
    assert counts == [1, 1]


def test_a_job_that_is_tried_again_starts_twice_and_finishes_once(engine: Engine) -> None:
    twice.run_later()
    with received(signals.job_started) as started, received(signals.job_finished) as finished:
        drain()
    assert [each["job"].attempt for each in started] == [1, 2]
    (last,) = finished
    assert (last["job"].outcome, type(last["job"].exception)) == ("failed", ValueError)


def test_the_members_of_an_expansion_are_sent_and_not_what_surrounds_them(engine: Engine) -> None:
    chain(numbers.bind(), expand(add)).run_later()
    with received(signals.job_started) as started, received(signals.job_finished) as finished:
        drain()
    assert [each["job"].name for each in started] == [numbers.name, add.name, add.name]
    assert len(finished) == 3


def test_drain_and_inline_send_them_in_order(engine: Engine) -> None:
    order: list[str] = []

    def note(signal: Signal, **values: Any) -> None:
        order.append(next(name for name, each in vars(signals).items() if each is signal))

    three = (signals.job_enqueued, signals.job_started, signals.job_finished)
    for signal in three:
        signal.connect(note)
    try:
        with inline():
            add.run_later(1)
        add.run_later(2)
        drain_here()
    finally:
        for signal in three:
            signal.disconnect(note)
    assert order == ["job_enqueued", "job_started", "job_finished"] * 2


@pytest.mark.parametrize("error", [ValueError, SystemExit])
@pytest.mark.parametrize("concurrency", ["threads", "asyncio"])
def test_a_receiver_that_raises_harms_no_job(
    engine: Engine,
    error: type[BaseException],
    concurrency: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    three = (signals.job_enqueued, signals.job_started, signals.job_finished)
    with raising(*three, error=error):
        handles: list[JobHandle[Any]] = [add.run_later(1), coroutine.run_later()]
        with transaction.atomic():
            handles.append(add.run_later(2))
        drain(concurrency=concurrency)
    assert {Job.objects.get(pk=handle.id).state for handle in handles} == {State.SUCCEEDED}
    if error is SystemExit:
        assert "a receiver of job_started has tried to end the process" in caplog.text


# consumer_started, consumer_stopped


def test_a_consumer_sends_its_start_and_its_end(engine: Engine) -> None:
    with (
        received(signals.consumer_started) as started,
        received(signals.consumer_stopped) as stopped,
    ):
        with consuming(slots=3, queues=["default", "mail"]) as consumer:
            add.run_later(1).join(timeout=30)
            eventually(lambda: started)
            assert stopped == []
        (first,), (last,) = started, stopped
    assert first["sender"] is last["sender"] is Consumer
    assert first["consumer"] == last["consumer"] == consumer.name
    assert (first["queues"], first["slots"]) == (["default", "mail"], 3)
    assert first["concurrency"] == "threads"
    assert (last["executed"], last["graceful"]) == (1, True)


def test_a_consumer_whose_job_does_not_end_stops_ungracefully(engine: Engine) -> None:
    begun, ends = threading.Event(), threading.Event()

    @job(name="signals.endless")
    def endless() -> None:
        begun.set()
        ends.wait(120)

    try:
        endless.run_later()
        with received(signals.consumer_stopped) as stopped:
            consumer = Consumer(1, shutdown_timeout=0)

            def work() -> None:
                consumer.run()
                connections.close_all()

            thread = threading.Thread(target=work)
            thread.start()
            assert begun.wait(30)
            consumer.stop()
            thread.join(30)
        (last,) = stopped
        assert last["graceful"] is False
    finally:
        ends.set()
        from djjp.jobs import registry

        del registry._jobs[endless.name]


def test_a_slow_receiver_of_its_start_does_not_hold_a_consumer_up(engine: Engine) -> None:
    goes_on = threading.Event()

    def slow(**values: Any) -> None:
        goes_on.wait(30)

    signals.consumer_started.connect(slow)
    try:
        add.run_later(1)
        assert drain().executed == 1
    finally:
        signals.consumer_started.disconnect(slow)
        goes_on.set()


def test_receivers_of_a_consumer_that_raise_do_not_end_it(engine: Engine) -> None:
    add.run_later(1)
    with raising(signals.consumer_started, signals.consumer_stopped, error=SystemExit):
        assert drain().executed == 1


def test_drain_is_no_consumer(engine: Engine) -> None:
    add.run_later(1)
    with received(signals.consumer_started) as got, received(signals.consumer_stopped) as stopped:
        drain_here()
    assert (got, stopped) == ([], [])
