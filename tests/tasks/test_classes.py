"""Tasks of derived classes and backends, results under `inline()`, and the time of a result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import django
import pytest
from django.core import checks
from django.db import transaction
from django.test import override_settings

from djjp import get_job, ids
from djjp.backend import DjjpBackend
from djjp.models import Job
from djjp.tasks.compat import AnyResult, Task
from djjp.testing import drain as drain_here
from djjp.testing import inline
from tests.project.shop.jobs import add
from tests.support.tasks_env import FAILED, READY, RUNNING, SUCCESSFUL, TASKS, ran, signals, tasks
from tests.tasks.errands import tasks as errands

pytestmark = pytest.mark.usefixtures("tasks_on_djjp")


@dataclass(frozen=True, kw_only=True)
class Painted(Task):  # type: ignore[type-arg]  # the backport's is generic
    """A task with a field of its own."""

    colour: str = "red"


class PaintingBackend(DjjpBackend):
    """A backend with options of its own."""

    task_class = Painted

    def __init__(self, alias: str, params: Any) -> None:
        super().__init__(alias, params)
        self.brush = self.options["brush"]


def paint(number: int) -> int:
    return number + 1


def repaint(number: int) -> int:
    return number + 2


def painted_with(colour: str) -> Any:
    """Return a task of the derived class; Django 6.0 has no defaults for its fields."""
    return Painted(
        func=paint,
        backend="painting",
        colour=colour,
        priority=0,
        queue_name="default",
        run_after=None,
    )


PAINTING = {
    **TASKS,
    "painting": {
        "BACKEND": f"{__name__}.PaintingBackend",
        "QUEUES": [],
        "OPTIONS": {"brush": "wide", "colours": ["red"], "max_attempts": 2, "backoff": 0},
    },
}


@contextmanager
def received() -> Iterator[list[tuple[str, Any]]]:
    """Collect the signals, each with the result's status at that time and its task."""
    found: list[tuple[str, Any]] = []
    names = ("task_enqueued", "task_started", "task_finished")

    def receiver(name: str) -> Any:
        def receive(sender: Any, task_result: AnyResult, **kwargs: Any) -> None:
            found.append((name, (task_result.status, task_result.task, task_result.enqueued_at)))

        return receive

    receivers = {name: receiver(name) for name in names}
    for name, function in receivers.items():
        getattr(signals, name).connect(function)
    try:
        yield found
    finally:
        for name, function in receivers.items():
            getattr(signals, name).disconnect(function)


@override_settings(TASKS=PAINTING)
def test_a_derived_class_is_kept_in_results_and_signals() -> None:
    painted = painted_with("blue")

    with received() as found:
        result = ran(painted.enqueue(1))

    assert result.return_value == 2
    loaded = painted.get_result(result.id)
    for task in (result.task, loaded.task, *(task for _, (_, task, _) in found)):
        assert (type(task), task.colour) == (Painted, "blue")
    assert loaded.task == painted
    assert [name for name, _ in found] == ["task_enqueued", "task_started", "task_finished"]


@override_settings(TASKS=PAINTING)
def test_a_changed_task_of_a_derived_class_is_kept() -> None:
    painted = painted_with("red")
    changed = painted.using(priority=7, queue_name="mail")

    result = ran(changed.enqueue(1))

    assert painted.get_result(result.id).task == changed


@pytest.mark.skipif(django.VERSION < (6, 1), reason="its @task takes no fields of other classes")
@override_settings(TASKS=PAINTING)
def test_the_class_of_the_backend_is_kept() -> None:
    decorator: Any = tasks.task
    task = decorator(backend="painting", colour="green")(repaint)

    result = ran(task.enqueue(1))

    loaded = task.get_result(result.id).task
    assert (type(loaded), loaded.colour) == (Painted, "green")


@override_settings(TASKS=PAINTING)
def test_options_of_a_derived_backend_break_nothing() -> None:
    backend: Any = tasks.task_backends["painting"]
    assert backend.brush == "wide"
    assert [found for found in backend.check() if found.level >= checks.ERROR] == []
    assert backend._job(painted_with("red")).options.max_attempts == 2


def test_wrong_options_of_djjps_own_backend_are_reported() -> None:
    with override_settings(
        TASKS={"default": {**TASKS["default"], "OPTIONS": {"colours": ["red"]}}}
    ):
        backend: Any = tasks.task_backends["default"]
        assert [found.id for found in backend.check()] == ["djjp.E031"]


def test_inline_sends_the_signals_in_order_and_returns_a_finished_result() -> None:
    with received() as found, inline():
        result: AnyResult = errands.echo.enqueue(1)

    assert [(name, status) for name, (status, *_) in found] == [
        ("task_enqueued", READY),
        ("task_started", RUNNING),
        ("task_finished", SUCCESSFUL),
    ]
    assert (result.status, result.return_value) == (SUCCESSFUL, [[1], {}])
    assert result.finished_at is not None


def test_inline_returns_the_result_of_a_failed_task_and_of_a_later_one() -> None:
    with inline():
        failed: AnyResult = errands.fail.enqueue("no")
        later = errands.noop.using(run_after=datetime.now(UTC) + timedelta(days=1)).enqueue()

    assert failed.status == FAILED
    assert later.status == READY


def test_inline_runs_jobs_beside_tasks_and_inside_atomic() -> None:
    with inline(), transaction.atomic():
        result: AnyResult = errands.echo.enqueue(2)
        handle = add.run_later(1, 2)
        assert handle.join(timeout=5) == 3

    assert result.status == SUCCESSFUL


def test_a_result_has_the_time_of_its_row_everywhere() -> None:
    with received() as found:
        result: AnyResult = errands.noop.enqueue()
        made = result.enqueued_at
        result = ran(result)

    row = Job.objects.get(pk=result.id)
    times = [at for _, (_, _, at) in found]
    assert [made, result.enqueued_at, *times] == [row.created_at] * 5


def travels() -> list[Any]:
    """Return the tools by which tests move the clock, as far as they are installed."""
    return [
        pytest.param(name, marks=[] if _installed(name) else pytest.mark.skip(f"no {name}"))
        for name in ("freezegun", "time_machine")
    ]


def _installed(name: str) -> bool:
    try:
        __import__(name)
    except ImportError:
        return False
    return True


@contextmanager
def frozen(tool: str, at: datetime) -> Iterator[None]:
    if tool == "freezegun":
        from freezegun import freeze_time

        with freeze_time(at, ignore=["threading"]):
            yield
    else:
        import time_machine

        with time_machine.travel(at, tick=False):
            yield


@pytest.mark.parametrize("tool", travels())
@pytest.mark.parametrize("year", [2001, 2040])
def test_a_result_has_the_time_of_the_test(
    tool: str, year: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ids, "_last", ids._last)  # later tests get ids of their own time
    at = datetime(year, 5, 6, 7, 8, 9, tzinfo=UTC)
    errands.noop.enqueue()  # an id of the real time, which the next one follows
    with frozen(tool, at), received() as found:
        result: AnyResult = errands.noop.enqueue()
        drain_here()
        result.refresh()

    assert result.enqueued_at == at
    assert {moment for name, (_, _, moment) in found if name == "task_enqueued"} == {at}
    assert tasks.default_task_backend.get_result(result.id).enqueued_at == at


@pytest.mark.parametrize("tool", travels())
def test_join_ends_while_the_clock_stands_still(tool: str) -> None:
    handle = add.run_later(1)
    with (
        frozen(tool, datetime(2031, 1, 1, tzinfo=UTC)),
        pytest.raises(TimeoutError, match="still ready after"),
    ):
        handle.join(timeout=0.05)

    with pytest.raises(TimeoutError):
        get_job(handle.id).join(timeout=0)
