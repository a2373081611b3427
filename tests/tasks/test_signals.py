"""The signals of tasks: who sends them, when, and that nothing which a receiver does changes a task."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.test import override_settings

from djjp import get_job, run_many
from djjp.backend import DjjpBackend, as_job
from djjp.engine import Engine
from djjp.models import Job
from tests.project.shop import jobs
from tests.support.consumers import drain
from tests.support.processes import Processes
from tests.support.tasks_env import (
    DJJP,
    FAILED,
    READY,
    RUNNING,
    SUCCESSFUL,
    awaited,
    ran,
    signals,
)
from tests.tasks.errands import tasks as errands

pytestmark = pytest.mark.usefixtures("tasks_on_djjp")

NAMES = ("task_enqueued", "task_started", "task_finished")
TASKS_LOG = signals.logger.name


class OtherBackend(DjjpBackend):
    """Of a project's own."""


@contextmanager
def received(*receivers: Callable[..., Any]) -> Iterator[list[tuple[str, Any, Any]]]:
    """Yield the signals, as name, sender and the result's state then; `receivers` get them first."""
    heard: list[tuple[str, Any, Any]] = []
    connected = []
    for name in NAMES:
        signal = getattr(signals, name)

        def hear(sender: Any, task_result: Any, name: str = name, **kwargs: Any) -> None:
            heard.append((name, sender, (task_result.id, task_result.status, task_result.attempts)))

        for receiver in (*receivers, hear):
            signal.connect(receiver, weak=False)
            connected.append((signal, receiver))
    try:
        yield heard
    finally:
        for signal, receiver in connected:
            signal.disconnect(receiver)


@pytest.mark.parametrize("task", [errands.noop, errands.anoop], ids=["function", "coroutine"])
def test_a_task_is_enqueued_started_and_finished(task: Any) -> None:
    with received() as heard:
        result = task.enqueue()
        assert heard == [("task_enqueued", DjjpBackend, (result.id, READY, 0))]
        drain()
    assert heard[1:] == [
        ("task_started", DjjpBackend, (result.id, RUNNING, 1)),
        ("task_finished", DjjpBackend, (result.id, SUCCESSFUL, 1)),
    ]


def test_the_sender_of_signals_is_the_class_of_the_backend() -> None:
    ours = f"{OtherBackend.__module__}.{OtherBackend.__qualname__}"
    with (
        override_settings(TASKS={"default": {"BACKEND": ours}, "plain": {"BACKEND": DJJP}}),
        received() as heard,
    ):
        ran(errands.noop.enqueue())
        ran(errands.noop.using(backend="plain").enqueue())
    assert [sender for _, sender, _ in heard] == [OtherBackend] * 3 + [DjjpBackend] * 3


def test_the_result_of_the_finished_signal_equals_the_queues() -> None:
    kept: list[Any] = []
    with received(lambda signal, task_result, **kwargs: kept.append((signal, task_result))):
        results: list[Any] = [errands.echo.enqueue((1,), k=2), errands.fail.enqueue("broken")]
        drain(1)
    for result in results:
        result.refresh()
        (last,) = [r for signal, r in kept if signal is signals.task_finished and r.id == result.id]
        assert (last.status, last.task, last.args, last.kwargs, last.backend) == (
            *(result.status, result.task, result.args, result.kwargs, result.backend),
        )
        assert (last.errors, last.worker_ids) == (result.errors, result.worker_ids)
        assert (last._return_value, last.finished_at) == (result._return_value, result.finished_at)
        assert last.enqueued_at == result.enqueued_at
        assert last.started_at == last.last_attempted_at == result.started_at


def test_each_attempt_sends_started_and_the_last_one_finished() -> None:
    with received() as heard:
        result = ran(errands.flaky.enqueue(3))
    assert result.status == SUCCESSFUL
    assert [(name, attempts) for name, _, (_, _, attempts) in heard] == [
        ("task_enqueued", 0),
        ("task_started", 1),
        ("task_started", 2),
        ("task_started", 3),
        ("task_finished", 3),
    ]


def test_a_task_that_fails_finally_sends_finished_once() -> None:
    with received() as heard:
        result = ran(errands.flaky.enqueue(9))
    assert [name for name, _, _ in heard].count("task_finished") == 1
    assert heard[-1] == ("task_finished", DjjpBackend, (result.id, FAILED, 3))


def test_a_task_that_exceeds_its_timeout_sends_finished() -> None:
    with received() as heard:
        result = ran(errands.slow.enqueue(60.0))
    assert heard[-1] == ("task_finished", DjjpBackend, (result.id, FAILED, 1))
    assert result.errors[0].exception_class_path == "djjp.exceptions.JobTimedOut"


def raises(**kwargs: Any) -> None:
    raise RuntimeError("a receiver is broken")


def exits(**kwargs: Any) -> None:
    if kwargs["signal"] is not signals.task_enqueued:
        raise SystemExit("a receiver is broken")


async def raises_later(**kwargs: Any) -> None:
    await asyncio.sleep(0)
    raise RuntimeError("a receiver is broken")


@pytest.mark.parametrize("receiver", [raises, exits, raises_later])
@pytest.mark.parametrize("task", [errands.add, errands.aecho], ids=["function", "coroutine"])
def test_a_receiver_that_raises_changes_nothing(task: Any, receiver: Callable[..., Any]) -> None:
    with received(receiver) as heard:
        good, bad = ran(task.enqueue(1)), ran(errands.fail.enqueue("its own"))
        awaited(task.aenqueue(1))

    assert good.status == SUCCESSFUL
    assert bad.status == FAILED
    assert "its own" in bad.errors[0].traceback
    assert Job.objects.filter(attempts=1).count() == 2
    assert Job.objects.count() == 3
    if receiver is not exits:  # which keeps those behind it from hearing
        assert len(heard) == 7


def test_a_receiver_can_enqueue_and_look_up() -> None:
    seen: list[Any] = []

    def follow(task_result: Any, **kwargs: Any) -> None:
        if task_result.task.func is errands.add.func:
            task_result.task.get_result(task_result.id)
            seen.append(errands.noop.enqueue(task_result.return_value))

    signals.task_finished.connect(follow)
    try:
        ran(errands.add.enqueue(1, 2))
    finally:
        signals.task_finished.disconnect(follow)
    (followed,) = seen
    assert ran(followed).args == [3]


def test_jobs_send_no_signals_of_tasks() -> None:
    with received() as heard:
        jobs.add.run_later(1)
        waiting = errands.noop.enqueue()
        get_job(waiting.id).cancel()
        drain()
        run_many([as_job(errands.noop).bind()])
    assert [name for name, _, _ in heard] == ["task_enqueued"]


def test_the_log_of_the_framework_equals_that_of_its_own_backends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG, logger=TASKS_LOG):
        good = errands.noop.enqueue()
        drain()
        bad = errands.fail.enqueue("broken")
        drain()
    records = [record for record in caplog.records if record.name == TASKS_LOG]
    told = [record.getMessage() for record in records]
    for result, lines in ((good, told[:3]), (bad, told[3:])):
        assert all(result.id in line for line in lines)
    assert ["enqueued" in line for line in told] == [True, False, False] * 2
    assert "state=SUCCESSFUL" in told[2]
    assert "state=FAILED" in told[5]
    assert "NoneType" not in caplog.text
    assert records[5].exc_info is not None
    assert records[5].exc_info[0] is ValueError


@pytest.mark.sqlite_only
def test_a_consumer_process_sends_them(processes: Processes, engine: Engine) -> None:
    result = errands.noop.enqueue()
    settings = "settings_together" if engine.db.alias == "default" else "settings"
    env = {"DJANGO_SETTINGS_MODULE": f"tests.tasks.{settings}", "DJJP_TEST_TASKS_LOG": "INFO"}
    done = processes.run("start_consumer", "--drain", **env)
    assert done.returncode == 0, done.stderr
    assert f"id={result.id} path={result.task.module_path} state=RUNNING" in done.stderr
    assert f"id={result.id} path={result.task.module_path} state=SUCCESSFUL" in done.stderr
