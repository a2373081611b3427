"""The tasks of the tests, as a project would write them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import TYPE_CHECKING, Any

import django

from djjp.backend import task_options
from djjp.jobs.current import current_job

if TYPE_CHECKING or django.VERSION >= (6, 0):
    from django.tasks import TaskContext, task
else:
    from django_tasks import TaskContext, task


@task
def noop(*args: object, **kwargs: object) -> None:
    """Do nothing."""


@task()
async def anoop(*args: object, **kwargs: object) -> None:
    await asyncio.sleep(0)


@task
def echo(*args: object, **kwargs: object) -> tuple[object, ...]:
    return args, kwargs


@task
async def aecho(*args: object, **kwargs: object) -> tuple[object, ...]:
    await asyncio.sleep(0)
    return args, kwargs


@task
def meaning() -> int:
    return 42


@task
def add(a: int, b: int = 0) -> int:
    return a + b


@task
def fail(message: str) -> None:
    raise ValueError(message)


@task
def exit_(message: str) -> None:
    raise SystemExit(message)


@task
def fail_within() -> None:
    raise ValueError(ValueError("this task failed"))


@task
def now() -> datetime:
    """Return what is not JSON."""
    return datetime.now(UTC)


@task
def not_a_number() -> float:
    return float("nan")


@task
def empty(basket: list[int]) -> list[int]:
    """Change an argument."""
    taken = list(basket)
    basket.clear()
    return taken


@task(takes_context=True)
def own_id(context: Any) -> str:
    assert isinstance(context, TaskContext)
    result: str = context.task_result.id
    return result


@task(takes_context=True)
async def aown(context: Any, *, key: str) -> list[Any]:
    await asyncio.sleep(0)
    return [key, context.attempt, context.task_result.id]


@task(takes_context=True)
def seen_by_itself(context: Any, consumer: object = None) -> dict[str, Any]:
    """Return what a running task reads about itself, from its context and from the queue."""
    own, job = context.task_result, current_job()
    before = [own.status, own.args, own.kwargs, own.worker_ids, own.task.queue_name]
    own.refresh()
    after = [own.status, own.args, own.kwargs, own.worker_ids, own.task.queue_name]
    return {"before": before, "after": after, "same": str(job.id) == own.id}


@task(takes_context=True)
@task_options(max_attempts=3, backoff=0)
def flaky(context: Any, works_at: int) -> list[Any]:
    """Fail until an attempt, and return what that attempt knew."""
    if context.attempt < works_at:
        raise ValueError(f"attempt {context.attempt}")
    own = context.task_result
    return [context.attempt, len(own.errors), len(own.worker_ids), own.started_at.isoformat()]


@task_options(timeout=0.2)
@task
def slow(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.01)


def gift(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function: pass an additional argument."""

    @wraps(function)
    def wrapper(number: int) -> Any:
        return function("gift", number)

    return wrapper


@task
@gift
def with_a_gift(given: str, number: int) -> list[Any]:
    return [given, number]


@task(backend=os.environ.get("DJJP_TEST_OTHER_BACKEND", "default"))
def for_another() -> str:
    return "ran"


@task
def enqueue_more(count: int) -> list[str]:
    return [noop.enqueue(number).id for number in range(count)]
