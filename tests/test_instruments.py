"""Instruments are around each enqueue and each run, their context travels with the job, and none harms a job."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from cProfile import Profile
from datetime import timedelta
from itertools import count
from types import CodeType
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, transaction
from django.test import override_settings

from djjp import Discard, Retry, arun_many, chain, current_job, expand, instruments, job, run_many
from djjp.checks import _instruments
from djjp.consumer import process
from djjp.consumer.scheduler import Scheduler
from djjp.engine import Engine
from djjp.exceptions import JobFailed
from djjp.jobs import JobHandle
from djjp.models import Job, State
from djjp.testing import drain as drain_here
from djjp.testing import inline
from tests.project.shop.jobs import add
from tests.support import instrument
from tests.support.consumers import consuming, drain
from tests.support.engine_calls import claim, register_consumer
from tests.support.instrument import EVENTS, GIVEN, MADE, PATH, Numbered, trace
from tests.support.schedules import by_hand
from tests.support.tasks_env import TASKS
from tests.tasks.errands import tasks as errands


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    EVENTS.clear()
    GIVEN.clear()
    MADE.clear()
    instruments._instances.clear()
    instruments._logged.clear()


def using(*names: str) -> override_settings:
    paths = [f"{instrument.__name__}.{name}" for name in names]
    return override_settings(DJJP={**settings.DJJP, "instruments": paths})


@pytest.fixture
def recorded(engine: Engine) -> Iterator[None]:
    with using("Recorder"):
        yield


@pytest.fixture
def ended() -> list[Any]:
    return []


def names() -> list[str]:
    return [event[0] for event in EVENTS]


def context_of(id: Any) -> dict[str, Any]:
    context: dict[str, Any] = Job.objects.get(pk=id).context
    return context


def state_of(handle: JobHandle[Any]) -> str:
    return Job.objects.get(pk=handle.id).state


@job(name="instruments.fails", max_attempts=2, backoff=0, retry_on=(ValueError,))
def fails(message: str) -> None:
    raise ValueError(message)


@job(name="instruments.discards")
def discards() -> None:
    raise Discard("no use")


@job(name="instruments.coroutine")
async def coroutine(fail: bool) -> int:
    EVENTS.append(("function", current_job().id, threading.get_ident()))
    if fail:
        raise KeyError("no")
    return 1


@job(name="instruments.later", max_attempts=2)
def later() -> None:
    raise Retry(after=3600)


@job(name="instruments.numbers")
def numbers(n: int) -> list[int]:
    return list(range(n))


@job(name="instruments.double")
def double(n: int) -> int:
    return 2 * n


@job(name="instruments.enqueues")
async def enqueues() -> str:
    return str((await add.arun_later(1)).id)


@job(name="instruments.traced")
def traced() -> str | None:
    return trace.get()


@job(name="instruments.atraced")
async def atraced() -> str | None:
    return trace.get()


# Around the enqueue


def test_an_enqueue_is_inside_the_instruments_with_its_call(recorded: None) -> None:
    handle = add.using(queue="mail", priority=3).run_later(1)
    [(event, [call])] = EVENTS
    assert event == "enqueue"
    assert (call.id, call.name, call.queue, call.priority) == (handle.id, add.name, "mail", 3)
    assert (call.run_after, call.pipeline, call.schedule) == (None, None, None)


def test_a_batch_has_one_enqueue_with_all_calls_and_one_context(recorded: None) -> None:
    GIVEN["trace"] = "t"
    handles = run_many(add.bind(n) for n in range(3))
    [(_, calls)] = EVENTS
    assert [call.id for call in calls] == [handle.id for handle in handles]
    assert [context_of(handle.id) for handle in handles] == [{"trace": "t"}] * 3


def test_what_the_instruments_add_is_in_the_row_and_in_the_run(recorded: None) -> None:
    GIVEN.update(trace="t", ids=[1, {"a": None}])
    handle = add.run_later(1)
    assert context_of(handle.id) == GIVEN
    drain()
    [(_, run, _)] = [event for event in EVENTS if event[0] == "run"]
    assert run.context == GIVEN
    assert (run.id, run.name, run.queue, run.attempt, run.rescues) == (
        handle.id,
        add.name,
        "default",
        1,
        0,
    )
    assert run.consumer
    assert run.enqueued_at <= run.started_at
    assert run.waited >= 0


def test_a_job_without_a_context_has_no_text_and_no_flag(recorded: None, engine: Engine) -> None:
    handle = add.run_later(1)
    with connections[engine.db.alias].cursor() as cursor:
        cursor.execute("SELECT context, flags FROM djjp_job")
        assert cursor.fetchall() == [(None, 0)]
    assert context_of(handle.id) == {}
    assert Job.objects.filter(context__isnull=True).count() == 1


def test_a_failed_enqueue_leaves_the_instruments_with_its_error(
    recorded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from djjp.jobs import enqueue as module

    def refuse(*args: Any) -> Any:
        raise OSError("no queue")

    monkeypatch.setattr(module.sender, "route", refuse)
    with pytest.raises(OSError, match="no queue"):
        add.run_later(1)
    assert names() == ["enqueue", "not enqueued"]


def test_the_context_travels_through_an_outbox(recorded: None) -> None:
    GIVEN["trace"] = "t"
    with transaction.atomic():
        handle = add.run_later(1)
        assert not Job.objects.filter(pk=handle.id).exists()
    assert context_of(handle.id) == GIVEN
    drain()
    assert names() == ["enqueue", "run", "end"]


def test_an_outbox_row_without_a_context_has_no_byte_of_it() -> None:
    from djjp.outbox import serialization

    assert "context" not in serialization.to_text(add.bind(1).to_row())


def test_the_context_is_that_of_each_step_and_member_of_a_pipeline(recorded: None) -> None:
    GIVEN["trace"] = "t"
    with transaction.atomic():
        handle = chain(numbers.bind(2), expand(double), add.bind(1)).run_later()
    [(_, calls)] = EVENTS
    assert [call.name for call in calls] == [numbers.name, double.name, add.name]
    assert {call.pipeline for call in calls} == {handle.id}
    GIVEN["trace"] = "another"
    drain()
    runs = [event[1] for event in EVENTS if event[0] == "run"]
    assert [run.name for run in runs] == [numbers.name, double.name, double.name, add.name]
    assert [run.context for run in runs] == [{"trace": "t"}] * 4


def test_a_retry_keeps_the_context(recorded: None) -> None:
    GIVEN["trace"] = "t"
    handle = fails.run_later("no")
    drain()
    assert handle.retry()
    drain()
    runs = [event[1] for event in EVENTS if event[0] == "run"]
    assert [(run.attempt, run.context) for run in runs] == [
        (n, {"trace": "t"}) for n in (1, 2, 1, 2)
    ]


def test_a_job_that_a_job_enqueues_has_a_context_of_its_own(recorded: None) -> None:
    GIVEN["trace"] = "t"
    handle = enqueues.run_later()
    GIVEN["trace"] = "u"
    drain()
    assert context_of(handle.join()) == {"trace": "u"}


def test_a_rescue_keeps_the_context(recorded: None, engine: Engine) -> None:
    GIVEN["trace"] = "t"
    handle = add.run_later(1)
    peer = register_consumer(engine, "one")
    assert len(claim(engine, "one")) == 1
    assert engine.rescue.rescue_jobs(peer, time.time(), max_rescues=3, started=None) == (1, 0, 1)
    drain()
    (run,) = [event[1] for event in EVENTS if event[0] == "run"]
    assert (run.id, run.rescues, run.context) == (handle.id, 1, {"trace": "t"})


def test_each_occurrence_of_a_schedule_has_an_enqueue_of_its_own(
    recorded: None, engine: Engine
) -> None:
    arguments = '{"args":[1],"kwargs":{}}'
    row = by_hand(add.name, 0.0, cron="* * * * *", arguments=arguments, catch_up="all", tz="UTC")
    counter = count(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Numbered, "numbers", counter)
        with using("Recorder", "Numbered"):
            assert Scheduler(engine).work(180.0)
            assert not Scheduler(engine).work(180.0)
    calls = [event[1] for event in EVENTS]
    assert [[call.schedule for call in each] for each in calls] == [[row.name]] * 3
    jobs = Job.objects.order_by("pk")
    assert [job.context for job in jobs] == [{"number": n} for n in (1, 2, 3)]
    assert [each[0].id for each in calls] == [job.id for job in jobs]


def test_an_instrument_that_raises_harms_no_occurrence(engine: Engine) -> None:
    by_hand(add.name, 0.0, cron="* * * * *", tz="UTC", arguments='{"args":[1],"kwargs":{}}')
    with using("RaisesAtOnce", "RaisesOnExit"):
        assert Scheduler(engine).work(600.0)
    assert Job.objects.count() == 1


def test_a_task_goes_through_the_instruments(recorded: None, engine: Engine) -> None:
    GIVEN["trace"] = "t"
    with override_settings(TASKS=TASKS):
        errands.noop.enqueue(1)
        drain()
    assert names() == ["enqueue", "run", "end"]
    assert EVENTS[1][1].context == {"trace": "t"}
    assert EVENTS[2][1] == "succeeded"


def test_an_async_enqueue_is_inside_the_instruments(recorded: None, engine: Engine) -> None:
    async def enqueue() -> Any:
        trace.set("outer")
        return await add.arun_later(1), await arun_many([add.bind(2)])

    with using("Tracing"):
        one, (other,) = async_to_sync(enqueue)()
    assert context_of(one.id) == context_of(other.id) == {"trace": "outer"}


@pytest.mark.parametrize("concurrency", ["threads", "asyncio"])
def test_a_function_sees_what_an_instrument_has_set_in_its_context(
    engine: Engine, concurrency: str
) -> None:
    with using("Tracing"):
        trace.set("t")
        handles = [traced.run_later(), atraced.run_later()]
        trace.set("u")
        drain(concurrency=concurrency)
    assert [handle.join() for handle in handles] == ["t", "t"]
    assert trace.get() == "u"


def test_without_instruments_and_receivers_nothing_of_them_is_called(engine: Engine) -> None:
    files = ("djjp/instruments.py", "djjp/jobs/hooks.py", "consumer/hooks.py", "djjp/signals.py")
    add.run_later(0)
    drain_here()  # what is imported only once
    with Profile() as profile:
        add.run_later(1)
        run_many([add.bind(2)])
        with transaction.atomic():
            add.run_later(3)
        assert drain_here() == 3
    codes = [entry.code for entry in profile.getstats() if isinstance(entry.code, CodeType)]
    called = {code.co_name for code in codes if code.co_filename.endswith(files)}
    assert called == {"refresh"}  # once for each claim


def test_inline_goes_through_the_instruments(recorded: None) -> None:
    with inline():
        add.run_later(1)
    assert names() == ["enqueue", "run", "end"]
    EVENTS.clear()
    add.run_later(2)
    assert drain_here() == 1
    assert names() == ["enqueue", "run", "end"]


# Around the run


@pytest.mark.parametrize("concurrency", ["threads", "asyncio"])
def test_a_run_is_on_the_thread_of_the_job_with_its_result(
    recorded: None, concurrency: str
) -> None:
    coroutine.run_later(False)
    drain(concurrency=concurrency)
    _, run, function, end = EVENTS
    assert run[2] == function[2] != threading.get_ident()
    assert (run[1].id, end) == (function[1], ("end", "succeeded", None))


@pytest.mark.parametrize("concurrency", ["threads", "asyncio"])
def test_a_run_ends_with_the_exception_and_what_becomes_of_the_job(
    recorded: None, concurrency: str
) -> None:
    coroutine.run_later(True)
    drain(concurrency=concurrency)
    end = EVENTS[-1]
    assert end[:2] == ("end", "failed")
    assert isinstance(end[2], KeyError)


def test_a_retry_a_failure_and_a_cancellation_are_told_apart(recorded: None) -> None:
    fails.run_later("no")
    discards.run_later()
    later.run_later()
    drain_here()
    ends = [(event[1], type(event[2]).__name__) for event in EVENTS if event[0] == "end"]
    assert sorted(ends) == [
        ("cancelled", "Discard"),
        ("failed", "ValueError"),
        ("retry", "Retry"),
        ("retry", "ValueError"),
    ]
    (run,) = [e[1] for e in EVENTS if e[0] == "run" and e[1].name == later.name]
    assert run.run_after - run.started_at > timedelta(minutes=50)


def test_a_timeout_is_the_exception_of_the_run(recorded: None) -> None:
    @job(name="instruments.slow", timeout=0.2)
    def slow() -> None:
        while True:
            time.sleep(0.01)

    try:
        slow.run_later()
        drain()
    finally:
        from djjp.jobs import registry

        del registry._jobs[slow.name]
    end = EVENTS[-1]
    assert end[:2] == ("end", "failed")
    assert type(end[2]).__name__ == "JobTimedOut"


def test_a_job_that_is_not_registered_when_it_runs_has_a_run_too(recorded: None) -> None:
    from djjp.consumer.execution import Execution
    from djjp.engine import Claimed
    from djjp.ids import new_id

    instruments.refresh()
    Execution(Claimed(new_id(), "shop.gone", '{"args":[],"kwargs":{}}', 1, 0)).run()
    assert EVENTS[-1][:2] == ("end", "failed")


def test_instruments_are_entered_in_order_and_left_in_reverse(engine: Engine) -> None:
    GIVEN["trace"] = "t"
    with using("Recorder", "Sequel", "OnlyRuns"):
        handle = add.run_later(1)
        drain()
    assert context_of(handle.id) == {"trace": "t", "seen": ["trace"]}
    assert names() == ["enqueue", "run", "sequel runs", "only runs", "sequel ends", "end"]


def test_a_consumer_without_instruments_runs_jobs_that_have_a_context(engine: Engine) -> None:
    GIVEN["trace"] = "t"
    with using("Recorder"):
        handle = add.run_later(1)
    drain()
    assert handle.join() == 1
    assert context_of(handle.id) == {"trace": "t"}


def test_a_damaged_context_is_an_empty_one(recorded: None, engine: Engine) -> None:
    GIVEN["trace"] = "t"
    handle = add.run_later(1)
    with connections[engine.db.alias].cursor() as cursor:
        cursor.execute("UPDATE djjp_job SET context = %s", ['{"trace": '])
    assert context_of(handle.id) == {}
    drain()
    assert EVENTS[1][1].context == {}
    assert handle.join() == 1


# What goes wrong


@pytest.mark.parametrize("name", ["RaisesAtOnce", "RaisesOnExit"])
@pytest.mark.parametrize("concurrency", ["threads", "asyncio"])
def test_an_instrument_that_raises_harms_no_job_and_is_logged_once(
    engine: Engine, name: str, concurrency: str, caplog: pytest.LogCaptureFixture
) -> None:
    with using(name, "Recorder"):
        GIVEN["trace"] = "t"
        handles = [add.run_later(1), coroutine.run_later(False), *run_many([add.bind(2)])]
        failing = coroutine.run_later(True)
        drain(concurrency=concurrency)
    assert [state_of(handle) for handle in handles] == [State.SUCCEEDED] * 3
    with pytest.raises(JobFailed, match="KeyError"):
        failing.join()
    assert context_of(handles[0].id) == {"trace": "t"}
    assert names().count("end") == 4
    records = [r for r in caplog.records if r.name == "djjp.instruments"]
    assert [name in r.getMessage() for r in records] == [True]


def test_an_instrument_cannot_suppress_the_exception_of_a_job(engine: Engine) -> None:
    with using("Suppresses"):
        handle = discards.run_later()
        failing = fails.run_later("no")
        drain()
    assert (state_of(handle), state_of(failing)) == (State.CANCELLED, State.FAILED)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"a": "x" * 4096}, "4,104 characters"),
        ({"a": object()}, "object"),
        ({"a": float("nan")}, "NaN|nan|JSON"),
    ],
)
def test_an_addition_that_a_row_cannot_hold_is_dropped_with_one_log_line(
    engine: Engine, given: dict[str, Any], problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    GIVEN.update(given)
    with using("Recorder", "Sequel"):
        handles = [add.run_later(n) for n in range(3)]
    assert [context_of(handle.id) for handle in handles] == [{"seen": []}] * 3
    (record,) = [r for r in caplog.records if r.name == "djjp.instruments"]
    assert record.levelno == logging.ERROR
    import re

    assert re.search(problem, record.getMessage())


def test_the_largest_context_is_kept(recorded: None) -> None:
    GIVEN["a"] = "x" * (4096 - len('{"a":""}'))
    assert context_of(add.run_later(1).id) == GIVEN


def test_an_instrument_is_logged_again_after_a_minute(
    engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with using("RaisesAtOnce"):
        add.run_later(1)
        add.run_later(2)
        for path in instruments._logged:
            instruments._logged[path] -= 61
        add.run_later(3)
    assert len([r for r in caplog.records if r.name == "djjp.instruments"]) == 2


# The setting


def test_an_instrument_is_instantiated_once_for_each_value_of_the_setting(engine: Engine) -> None:
    for _ in range(2):
        with using("Recorder"):
            add.run_later(1)
            add.run_later(2)
            drain()
    assert len(MADE) == 1
    with using("Recorder", "Sequel"):
        add.run_later(1)
    assert len(MADE) == 2


def test_threads_that_begin_together_share_one_instance(recorded: None) -> None:
    barrier = threading.Barrier(4)

    def work() -> None:
        barrier.wait(20)
        instruments.current()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(MADE) == 1


def test_a_forked_child_makes_instances_of_its_own() -> None:
    import os

    with using("Recorder"):
        instruments.current()
        pid = os.fork()
        if pid == 0:
            os._exit(0 if not instruments._instances and instruments.current() else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert len(MADE) == 1


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("shop.missing.Instrument", "cannot be imported"),
        ("tests.support.instrument.Absent", "cannot be imported"),
        ("tests.support.instrument.NO_CLASS", "must be a class"),
        ("tests.support.instrument.Neither", "neither a method enqueue"),
        ("tests.support.instrument.Unmade", "cannot be instantiated: OSError: no network"),
    ],
)
def test_an_instrument_that_cannot_be_loaded_is_an_error_of_check_and_harms_no_job(
    engine: Engine, path: str, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    given = {**settings.DJJP, "instruments": [path, PATH]}
    with override_settings(DJJP=given):
        (error,) = _instruments()
        assert error.id == "djjp.E016"
        assert problem in error.msg
        assert path in error.msg
        with pytest.raises(ImproperlyConfigured, match="DJJP"):
            instruments.require()
        with pytest.raises(ImproperlyConfigured, match="DJJP"):
            process.require()
        handle = add.run_later(1)
        drain()
    assert handle.join() == 1
    assert names() == ["enqueue", "run", "end"]
    assert len([r for r in caplog.records if r.name == "djjp.instruments"]) == 1


def test_an_instrument_that_could_not_be_loaded_is_tried_again_after_a_minute(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instrument.Unmade, "__init__", lambda self: (_ for _ in ()).throw(OSError))
    with using("Recorder", "Unmade"):
        assert len(instruments.current()) == 1
        monkeypatch.setattr(instrument.Unmade, "__init__", lambda self: None)
        assert len(instruments.current()) == 1
        (paths,) = instruments._instances
        instruments._instances[paths] = instruments._instances[paths]._replace(retry_at=0.0)
        assert len(instruments.current()) == 2
    assert len(MADE) == 1


# Beside the tests of the consumer


def test_a_consumer_beside_uses_the_instruments(recorded: None) -> None:
    GIVEN["trace"] = "t"
    with consuming():
        assert add.run_later(1, 1).join(timeout=30) == 2
    assert [e[1].context for e in EVENTS if e[0] == "run"] == [{"trace": "t"}]
