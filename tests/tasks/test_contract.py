"""The contract of Django for a backend of tasks, tested on djjp's: enqueue, results, contexts."""

from __future__ import annotations

import asyncio
import collections
import pickle
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import django
import pytest
from django.test import override_settings
from django.utils import timezone
from django.utils.safestring import SafeString

from djjp.backend import DjjpBackend
from djjp.exceptions import EncodeError
from djjp.models import Attempt, Job, State
from djjp.tasks.compat import AnyResult, InvalidTask, Task, TaskResultDoesNotExist
from tests.project.shop import jobs
from tests.support.consumers import drain
from tests.support.tasks_env import (
    DJJP,
    FAILED,
    READY,
    RUNNING,
    SUCCESSFUL,
    TASKS,
    awaited,
    drain_here,
    exceptions,
    ran,
    tasks,
)
from tests.tasks.errands import tasks as errands

pytestmark = pytest.mark.usefixtures("tasks_on_djjp")


def test_the_backend_supports_all_features_of_the_framework() -> None:
    backend = tasks.task_backends["default"]
    assert isinstance(backend, DjjpBackend)
    assert tasks.default_task_backend == backend
    assert backend.alias == "default"
    assert backend.supports_defer
    assert backend.supports_async_task
    assert backend.supports_get_result
    assert backend.supports_priority
    assert list(backend.check()) == []


def times(result: AnyResult) -> list[datetime]:
    """Return when a finished task was enqueued, first started, last attempted and finished."""
    known = [result.enqueued_at, result.started_at, result.last_attempted_at, result.finished_at]
    assert None not in known
    return [time for time in known if time is not None]


# Enqueue


@pytest.mark.parametrize("task", [errands.noop, errands.anoop], ids=["function", "coroutine"])
def test_an_enqueued_task_is_ready(task: Any) -> None:
    before = timezone.now()
    result = task.enqueue(1, two=3)

    assert result.status == READY
    assert not result.is_finished
    assert before - timedelta(milliseconds=1) <= result.enqueued_at <= timezone.now()
    assert result.started_at is result.finished_at is result.last_attempted_at is None
    assert (result.args, result.kwargs, result.backend) == ([1], {"two": 3}, "default")
    assert (result.errors, result.worker_ids, result.attempts) == ([], [], 0)
    assert result.task == task
    with pytest.raises(ValueError, match="Task has not finished yet"):
        _ = result.return_value


@pytest.mark.parametrize("task", [errands.noop, errands.anoop], ids=["function", "coroutine"])
def test_an_enqueued_task_runs(task: Any) -> None:
    result = ran(task.enqueue(1, two=3))

    assert result.status == SUCCESSFUL
    assert result.is_finished
    assert result.return_value is None
    enqueued, started, last_attempted, finished = times(result)
    assert enqueued <= started == last_attempted <= finished
    assert result.attempts == 1
    assert result.worker_ids == [Job.objects.get().consumer]
    assert result.task == task
    assert (result.args, result.kwargs) == ([1], {"two": 3})


@pytest.mark.parametrize("task", [errands.echo, errands.aecho], ids=["function", "coroutine"])
def test_the_async_methods_enqueue_look_up_and_refresh(task: Any) -> None:
    async def story() -> Any:
        result = await task.aenqueue(1, key="x")
        assert await task.aget_result(result.id) == result
        assert await tasks.default_task_backend.aget_result(result.id) == result
        await asyncio.to_thread(drain_here)
        await result.arefresh()
        return result

    result = awaited(story())
    assert result.return_value == [[1], {"key": "x"}]


def test_the_backend_enqueues_lists_and_dicts() -> None:
    result = tasks.default_task_backend.enqueue(errands.add, [1], {"b": 2})
    assert ran(result).return_value == 3


def test_a_tasks_row_resembles_a_jobs_row() -> None:
    errands.add.using(priority=7, queue_name="mail").enqueue(1, b=2)
    jobs.add.run_later(1, b=2)

    task, job = Job.objects.order_by("created_at")
    assert task.name == "tests.tasks.errands.tasks.add"
    assert (task.queue, task.priority, task.state) == ("mail", 7, State.READY)
    assert task.arguments == '{"task":{"queue_name":"mail","priority":7},' + job.arguments[1:]


def test_wrong_arguments_raise_at_the_enqueue() -> None:
    for wrong in (
        errands.add.enqueue,
        lambda: errands.add.enqueue(1, c=2),  # type: ignore[call-arg]  # the mistake
        lambda: errands.own_id.enqueue("context"),  # type: ignore[call-arg]  # the mistake
        errands.aown.enqueue,
    ):
        with pytest.raises(TypeError):
            wrong()  # type: ignore[call-arg]  # the mistake
    assert not Job.objects.exists()


# Arguments and return values are JSON


def make(kind: str) -> tuple[Any, ...]:
    """Return arguments that JSON can represent, though some only as other types."""
    return {
        "nothing": (),
        "scalars": (None, True, 0, -1, 10**30, 1.5, "", "é\U0001f600\0"),
        "tuples": ((1, (2, 3)), [[], ()], {"a": (1,)}),
        "keys": ({1: "a", None: (2,), 1.5: []},),
        "bytes": (b"bytes", {b"k": b"v"}),
        "subclasses": (SafeString("safe"), State.READY),
        "sequences": (range(3), collections.deque([1, (2,)])),
        "mappings": (MappingProxyType({"a": 1}), collections.UserDict(b=(2,))),
        "lookalikes": ({"$djjp": "tuple", "value": [1]}, {"task": {}, "args": [], "kwargs": {}}),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    "nothing scalars tuples keys bytes subclasses sequences mappings lookalikes".split(),  # noqa: SIM905
)
@pytest.mark.parametrize("task", [errands.echo, errands.aecho], ids=["function", "coroutine"])
def test_arguments_and_results_equal_those_of_the_immediate_backend(kind: str, task: Any) -> None:
    """As the framework's own immediate backend runs it."""
    at_once = task.using(backend="immediate").enqueue(*make(kind), key=make(kind))
    later = ran(task.enqueue(*make(kind), key=make(kind)))

    assert at_once.status == later.status == SUCCESSFUL
    assert later.return_value == at_once.return_value
    assert (later.args, later.kwargs) == (at_once.args, at_once.kwargs)


@pytest.mark.parametrize(
    "value",
    [
        datetime(2026, 1, 1, tzinfo=UTC),
        timedelta(1),
        uuid.uuid4(),
        {1, 2},
        object(),
        b"\xff",
        {(1, 2): 3},
        iter([1]),
        1j,
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [{"deep": [v]}]], ids=["bare", "deep"])
def test_an_argument_that_the_framework_refuses_is_refused_by_name(
    value: Any, wrap: Callable[[Any], Any]
) -> None:
    with pytest.raises((TypeError, ValueError)) as theirs:
        errands.add.using(backend="immediate").enqueue(1, b=wrap(value))
    with pytest.raises(type(theirs.value), match=r"^cannot encode b: ") as ours:
        errands.add.enqueue(1, b=wrap(value))
    assert str(theirs.value) in str(ours.value)
    with pytest.raises(type(theirs.value), match=r"^cannot encode a: "):
        errands.add.enqueue(wrap(value))
    with pytest.raises(type(theirs.value), match=r"^cannot encode a: "):
        awaited(errands.add.aenqueue(wrap(value)))
    assert not Job.objects.exists()


def circle() -> list[Any]:
    ring: list[Any] = []
    ring.append(ring)
    return ring


@pytest.mark.parametrize(
    "value",
    [float("nan"), [float("inf")], {"k": -float("inf")}, circle(), {1: circle()}],
    ids=["nan", "infinity", "-infinity", "circle", "circle in a dict"],
)
def test_an_argument_that_no_database_can_store_is_refused_by_name(value: Any) -> None:
    with pytest.raises(EncodeError, match=r"cannot encode b"):
        errands.add.enqueue(1, b=value)
    assert not Job.objects.exists()


def test_a_change_of_an_argument_after_the_enqueue_has_no_effect() -> None:
    basket = [1, 2]
    result = errands.empty.enqueue(basket)
    basket.append(3)

    assert result.args == [[1, 2]]
    assert ran(result).return_value == [1, 2]
    assert result.args == [[1, 2]]


def test_a_return_value_that_is_not_json_fails_the_task() -> None:
    result = errands.now.enqueue()
    nan = errands.not_a_number.enqueue()
    drain()
    result.refresh()
    nan.refresh()

    assert result.status == nan.status == FAILED
    assert result.errors[0].exception_class is TypeError
    assert "Unsupported type" in result.errors[0].traceback
    assert nan.errors[0].exception_class is EncodeError


# Failures


@pytest.mark.parametrize(
    ("task", "kind"), [(errands.fail, ValueError), (errands.exit_, SystemExit)]
)
def test_a_task_that_raises_fails_with_that_error(task: Any, kind: type[BaseException]) -> None:
    result = ran(task.enqueue("it is broken"))

    assert result.status == FAILED
    assert result.is_finished
    with pytest.raises(ValueError, match="Task failed"):
        _ = result.return_value
    enqueued, started, last_attempted, finished = times(result)
    assert enqueued <= started == last_attempted <= finished
    (error,) = result.errors
    assert error.exception_class is kind
    assert error.traceback.startswith("Traceback (most recent call last):\n")
    assert error.traceback.endswith(f"{kind.__name__}: it is broken\n")
    assert result.attempts == 1
    assert result.args == ["it is broken"]


def test_an_exception_within_an_exception_is_kept_as_text() -> None:
    result = ran(errands.fail_within.enqueue())
    assert 'ValueError(ValueError("this task failed"))' in result.errors[0].traceback
    assert result._return_value is None  # type: ignore[attr-defined]  # not in the stubs


def test_each_attempt_records_its_error_and_its_worker() -> None:
    result: AnyResult = errands.flaky.enqueue(3)
    first, second = drain_once(), drain_once()
    third = drain_once()
    result.refresh()

    assert result.status == SUCCESSFUL
    assert result.attempts == 3
    assert result.worker_ids == [first, second, third]
    assert [error.exception_class for error in result.errors] == [ValueError, ValueError]
    assert ["attempt 1" in e.traceback for e in result.errors] == [True, False]
    attempt, errors, workers, started = result.return_value
    assert (attempt, errors, workers) == (3, 2, 3)
    earliest = Attempt.objects.earliest("pk").started_at
    assert result.started_at == earliest == datetime.fromisoformat(started)
    _, started_at, last_attempted, finished = times(result)
    assert started_at < last_attempted < finished


def drain_once() -> str:
    """Run one execution; return the consumer's name."""
    from djjp.consumer.consumer import Consumer

    consumer = Consumer(1, max_jobs=1)
    consumer.run()
    return consumer.name


def test_between_two_attempts_a_task_is_ready_and_has_the_first_error() -> None:
    result = errands.flaky.enqueue(2)
    name = drain_once()
    result.refresh()

    assert result.status == READY
    assert not result.is_finished
    assert (result.attempts, result.worker_ids) == (1, [name])
    assert len(result.errors) == 1
    assert result.started_at == result.last_attempted_at == Attempt.objects.get().started_at
    assert result.finished_at is None


def test_a_task_that_was_retried_by_hand_keeps_its_errors() -> None:
    result = ran(errands.fail.enqueue("broken"))
    from djjp import get_job

    get_job(result.id).retry()
    result.refresh()
    assert (result.status, result.attempts, len(result.errors)) == (READY, 0, 1)
    assert result.started_at is result.last_attempted_at is result.finished_at is None
    assert (ran(result).status, result.attempts, len(result.errors)) == (FAILED, 1, 2)


def test_a_cancelled_task_has_failed_with_the_reason() -> None:
    from djjp import get_job

    result = errands.noop.enqueue()
    get_job(result.id).cancel()
    result.refresh()

    assert result.status == FAILED
    assert result.is_finished
    (error,) = result.errors
    assert error.exception_class_path == "djjp.exceptions.JobCancelled"
    assert issubclass(error.exception_class, Exception)
    assert "cancelled" in error.traceback


# Priorities, times, queues


def test_a_deferred_task_has_the_status_ready_and_runs_when_due() -> None:
    later = timezone.now() + timedelta(hours=1)
    result = errands.noop.using(run_after=later).enqueue()

    assert Job.objects.get().state == State.SCHEDULED
    assert Job.objects.get().run_after == later
    assert ran(result).status == READY
    assert tasks.default_task_backend.get_result(result.id).task.run_after == later
    past = errands.noop.using(run_after=timezone.now() - timedelta(seconds=1)).enqueue()
    assert ran(past).status == SUCCESSFUL


def test_higher_priority_runs_first() -> None:
    low, high = (errands.noop.using(priority=p).enqueue() for p in (-100, 100))
    middle = errands.noop.enqueue()
    drain(1)
    for result in (low, high, middle):
        result.refresh()
    started = [times(result)[1] for result in (high, middle, low)]
    assert started == sorted(started)


@pytest.mark.parametrize("priority", [-101, 101, 3.1])
def test_a_priority_out_of_range_is_invalid(priority: Any) -> None:
    with pytest.raises(InvalidTask, match="priority must be a whole number between -100 and 100"):
        errands.noop.using(priority=priority)


@pytest.mark.parametrize("priority", [100, -100, 0, 3.0, True])
def test_a_whole_number_is_a_priority(priority: Any) -> None:
    result = errands.noop.using(priority=priority).enqueue()
    assert Job.objects.get().priority == int(priority)
    assert tasks.default_task_backend.get_result(result.id).task.priority == priority


def test_a_naive_time_is_invalid() -> None:
    with pytest.raises(InvalidTask, match="run_after must be an aware datetime"):
        errands.noop.using(run_after=datetime(2026, 1, 1))


def test_without_time_zones_times_are_naive() -> None:
    with override_settings(USE_TZ=False):
        later = datetime.now() + timedelta(hours=1)
        result = errands.noop.using(run_after=later).enqueue()
        assert tasks.default_task_backend.get_result(result.id) == result
        assert times(ran(errands.noop.enqueue()))[1].tzinfo is None


def test_only_queues_of_the_backend_are_valid() -> None:
    with pytest.raises(InvalidTask, match="Queue 'post' is not valid for backend"):
        errands.noop.using(queue_name="post")
    assert errands.noop.using(queue_name="mail").enqueue().task.queue_name == "mail"
    assert errands.noop.using(queue_name="post", backend="open").enqueue().backend == "open"


def test_a_queue_name_without_characters_or_with_too_many_is_invalid() -> None:
    for name in ("", "q" * 101):
        with pytest.raises(InvalidTask, match="queue is"):
            errands.noop.using(queue_name=name, backend="open")
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    "enqueue",
    [lambda task: task.enqueue(), lambda task: awaited(task.aenqueue())],
    ids=["enqueue", "aenqueue"],
)
def test_a_task_is_validated_again_when_it_is_enqueued(enqueue: Callable[[Any], Any]) -> None:
    task = errands.noop.using(queue_name="mail")
    with (
        override_settings(TASKS={"default": {"BACKEND": DJJP, "QUEUES": ["other"]}}),
        pytest.raises(InvalidTask, match="Queue 'mail' is not valid for backend"),
    ):
        enqueue(task)
    assert not Job.objects.exists()


def test_a_row_runs_after_its_queue_has_left_the_settings() -> None:
    result = errands.own_id.using(queue_name="mail").enqueue()
    with override_settings(TASKS={"default": {"BACKEND": DJJP, "QUEUES": ["other"]}}):
        assert ran(result).return_value == result.id


def test_only_functions_of_modules_can_be_tasks() -> None:
    def within() -> None: ...

    for function in (any, within, jobs.add):
        with pytest.raises(InvalidTask, match="must be defined at a module level"):
            tasks.task()(function)


def test_a_task_with_a_context_needs_a_parameter_for_it() -> None:
    with pytest.raises(InvalidTask, match="does not have a first argument of 'context'"):
        tasks.task(takes_context=True)(errands.meaning.func)


def test_using_does_not_change_the_task() -> None:
    changed = errands.noop.using(priority=10).using(queue_name="mail")
    assert (changed.priority, changed.queue_name) == (10, "mail")
    assert (errands.noop.priority, errands.noop.queue_name) == (0, "default")
    assert errands.noop.using() == errands.noop


# Results


@pytest.mark.borrowed
def test_a_result_can_be_looked_up() -> None:
    now = timezone.now() + timedelta(days=1, microseconds=1)
    for task in (
        errands.noop,
        errands.noop.using(priority=-3, queue_name="mail", run_after=now),
        errands.noop.using(backend="open", queue_name="any"),
    ):
        result = task.enqueue((1,), k={"a": (2,)})
        assert tasks.default_task_backend.get_result(result.id) == result
        assert task.get_result(result.id) == result
        assert isinstance(result.id, str)
        assert len(result.id) < 64


def test_only_tasks_have_results() -> None:
    job = jobs.add.run_later(1)
    ids: list[Any] = ["123", "", str(uuid.uuid4()), str(job.id), None, 123]
    for id in ids:
        with pytest.raises(TaskResultDoesNotExist):
            tasks.default_task_backend.get_result(id)
        with pytest.raises(TaskResultDoesNotExist):
            errands.noop.get_result(id)
        with pytest.raises(TaskResultDoesNotExist):
            awaited(errands.noop.aget_result(id))


def test_the_result_of_another_task_does_not_match() -> None:
    result = errands.anoop.enqueue()
    with pytest.raises(exceptions.TaskResultMismatch, match="Task does not match"):
        errands.noop.get_result(result.id)
    with pytest.raises(exceptions.TaskResultMismatch, match="Task does not match"):
        awaited(errands.noop.aget_result(result.id))


def test_a_refresh_of_a_deleted_result_raises() -> None:
    result = errands.noop.enqueue()
    Job.objects.all()._raw_delete(Job.objects.db)
    with pytest.raises(TaskResultDoesNotExist):
        result.refresh()


def test_a_refresh_of_an_unchanged_row_changes_nothing() -> None:
    result = errands.noop.enqueue(1)
    same = tasks.default_task_backend.get_result(result.id)
    result.refresh()
    awaited(result.arefresh())
    assert result == same


def test_a_running_task_has_the_status_running() -> None:
    result = errands.seen_by_itself.enqueue(consumer=(1, 2))
    seen = ran(result).return_value
    expected = [RUNNING, [], {"consumer": [1, 2]}, result.worker_ids, "default"]
    assert seen == {"before": expected, "after": expected, "same": True}


@pytest.mark.skipif(django.VERSION < (6, 1), reason="tasks can be pickled since Django 6.1")
def test_results_can_be_pickled() -> None:
    result = ran(errands.fail.enqueue("broken"))
    assert pickle.loads(pickle.dumps(result)) == result  # noqa: S301


# Context


def test_a_task_receives_its_context() -> None:
    result = errands.own_id.enqueue()
    other: AnyResult = errands.aown.enqueue(key="k")
    drain()
    result.refresh()
    other.refresh()
    assert result.return_value == result.id
    assert other.return_value == ["k", 1, other.id]


# Tasks and jobs together


def test_tasks_and_jobs_share_a_consumer() -> None:
    job = jobs.add.run_later(1, 1)
    task = errands.add.enqueue(2, 2)
    consumer = drain()
    task.refresh()
    assert (job.join(0), task.return_value) == (2, 4)
    assert consumer.executed == 2
    assert set(Job.objects.values_list("consumer", flat=True)) == {consumer.name}


def test_a_task_enqueues_tasks() -> None:
    result = ran(errands.enqueue_more.enqueue(3))
    for number, id in enumerate(result.return_value):
        found = tasks.default_task_backend.get_result(id)
        assert (found.status, found.args) == (SUCCESSFUL, [number])


def test_many_tasks_are_enqueued_by_run_many() -> None:
    from djjp import run_many
    from djjp.backend import as_job

    handles = run_many(as_job(errands.echo).bind((n,)) for n in range(20))
    drain()
    results: list[AnyResult] = [errands.echo.get_result(str(handle.id)) for handle in handles]
    assert [result.return_value for result in results] == [[[[n]], {}] for n in range(20)]
    with pytest.raises(InvalidTask, match="not djjp's"):
        as_job(errands.echo.using(backend="immediate"))


def test_a_task_is_an_object_of_the_framework() -> None:
    assert type(errands.noop) is Task
    assert set(TASKS) == {"default", "open", "immediate"}
    assert errands.add.call(1, b=2) == 3
    assert awaited(errands.anoop.acall()) is None
