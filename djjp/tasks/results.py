"""`TaskResult`s of Django's task framework: of enqueued, running and ended tasks.

This module also reads and writes the mark that distinguishes a task's row from a job's: the first key of
the arguments, `"task"`. The mark holds the differences from the framework's defaults: the backend's alias,
and the queue, the priority and the time that the task was enqueued for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from datetime import datetime
from typing import Any
from uuid import UUID

from djjp import codec, logs
from djjp.durations import to_datetime
from djjp.engine import Claimed, Outcome
from djjp.exceptions import EncodeError, JobCancelled, JobDoesNotExist
from djjp.jobs.handles import JobHandle, find_job
from djjp.models import FINISHED, Attempt, State
from djjp.tasks.compat import (
    AnyResult,
    AnyTask,
    Task,
    TaskError,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
)

logger = logging.getLogger("djjp.tasks")

_PREFIX = '{"task":'
_PLAIN = '{"task":{},'
# The framework's defaults; Django 6.0 has them in its decorator only.
_DEFAULTS = {"backend": "default", "queue_name": "default", "priority": 0, "run_after": None}

_NAMES = {each.name for each in fields(Task)}

_STATUS = {
    State.SCHEDULED: TaskResultStatus.READY,
    State.BLOCKED: TaskResultStatus.READY,
    State.READY: TaskResultStatus.READY,
    State.RUNNING: TaskResultStatus.RUNNING,
    State.SUCCEEDED: TaskResultStatus.SUCCESSFUL,
    State.FAILED: TaskResultStatus.FAILED,
    State.CANCELLED: TaskResultStatus.FAILED,
}

#: Stands for the consumer of an execution that was not recorded, because its consumer died.
UNKNOWN_WORKER = "unknown"

# The mark


def marked(arguments: str, task: AnyTask, registered: object = None) -> str:
    """Return a job's encoded arguments with the mark of a task.

    Args:
        registered: the task that is registered under its path, if this is another one.
    """
    changes = {k: getattr(task, k) for k, usual in _DEFAULTS.items() if getattr(task, k) != usual}
    for name in _own_fields(type(task)) if registered is not None else ():
        value = getattr(task, name)
        if value != getattr(registered, name, value):
            with suppress(EncodeError):  # it stays that of the registered task
                codec.encode_value(value, name)
                changes[name] = value
    text = codec.encode_value(changes, "task") if changes else "{}"
    return f"{_PREFIX}{text},{arguments[1:]}"


def _own_fields(kind: type[AnyTask]) -> list[str]:
    """Return the fields that a derived class adds to those of `Task`."""
    if kind is Task:
        return []
    return [each.name for each in fields(kind) if each.name not in _NAMES]


def is_marked(arguments: str) -> bool:
    """Return whether a row's arguments are those of a task."""
    return arguments.startswith(_PREFIX)


def mark(arguments: str, kind: type[AnyTask] = Task) -> dict[str, Any]:
    """Return the changes from the defaults, and of the fields of a derived class, that a row's mark holds."""
    if arguments.startswith(_PLAIN):
        return {}
    changes = codec.decode_value(arguments)["task"]
    known = {*_DEFAULTS, *_own_fields(kind)}
    return {k: v for k, v in changes.items() if k in known} if type(changes) is dict else {}


def unchecked(function: Callable[..., Any], changes: Mapping[str, Any]) -> AnyTask:
    """Return a task made without validation, because an enqueued task may no longer be valid."""
    values = {"takes_context": False, **_DEFAULTS, **changes, "func": function}
    return _made(Task, {each.name: values[each.name] for each in fields(Task)})


def as_enqueued(task: AnyTask, arguments: str) -> AnyTask:
    """Return a task with the backend, queue, priority and time in a row's mark, of the same class."""
    values = {each.name: getattr(task, each.name) for each in fields(task)}
    values |= getattr(task, "__dict__", {}) | _DEFAULTS | mark(arguments, type(task))
    return _made(type(task), values)


def _made(kind: type[AnyTask], values: Mapping[str, Any]) -> AnyTask:
    task = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(task, name, value)
    return task


# Results


def enqueued(task: AnyTask, id: UUID, args: Any, kwargs: Any, at: datetime) -> AnyResult:
    """Return the result of a task that was just enqueued."""
    return _result(task, id, State.READY, args, kwargs, at)


def started(task: AnyTask, claimed: Claimed, consumer: str, args: Any, kwargs: Any) -> AnyResult:
    """Return the result of a task that starts to run here and now."""
    now = to_datetime(time.time())
    earlier = _earlier(claimed)
    return _result(
        as_enqueued(task, claimed.arguments),
        claimed.id,
        State.RUNNING,
        args,
        kwargs,
        to_datetime(claimed.enqueued_at),
        errors=[*map(_error, earlier)],
        worker_ids=_worker_ids(claimed.attempt, earlier, consumer),
        started_at=_first_start(claimed.attempt, earlier) or now,
        last_attempted_at=now,
    )


def ended(task: AnyTask, outcome: Outcome, consumer: str) -> AnyResult:
    """Return the result of a task that has ended here."""
    claimed, failure = outcome.claimed, outcome.failure
    args, kwargs = codec.decode_arguments(claimed.arguments)
    earlier, last_start = _earlier(claimed), to_datetime(outcome.started_at)
    errors = [*map(_error, earlier)]
    if failure is not None:
        errors.append(
            TaskError(exception_class_path=failure.exception_class, traceback=failure.traceback)
        )
    elif outcome.state == State.CANCELLED:
        errors.append(_cancelled(outcome.reason))
    return _result(
        as_enqueued(task, claimed.arguments),
        claimed.id,
        outcome.state,
        args,
        kwargs,
        to_datetime(claimed.enqueued_at),
        errors=errors,
        worker_ids=_worker_ids(claimed.attempt, earlier, consumer),
        started_at=_first_start(claimed.attempt, earlier) or last_start,
        last_attempted_at=last_start,
        finished_at=to_datetime(outcome.finished_at),
        value=None if outcome.result is None else codec.decode_value(outcome.result),
    )


def load(result_id: str, find: Callable[[str, str], AnyTask]) -> AnyResult:
    """Return the result of an enqueued task; `find` returns the task of a name and its arguments.

    Raises:
        TaskResultDoesNotExist: there is no such row, or it is a job's and no task's.
    """
    try:
        handle = find_job(result_id)
        row = handle._read()  # noqa: SLF001  (the row that `find_job` has just read)
        failures = handle.errors
    except JobDoesNotExist as error:
        raise TaskResultDoesNotExist(result_id) from error
    if not is_marked(row.arguments):
        raise TaskResultDoesNotExist(result_id)
    state = State(row.state)
    if state == State.RUNNING and row.started_at is not None:
        # It may have ended between the two reads.
        failures = [failure for failure in failures if failure.started_at < row.started_at]
    errors = [*map(_error, failures)]
    if state == State.CANCELLED:
        errors.append(_cancelled(row.reason))
    last = row.started_at
    if last is None and row.attempts and failures:
        last = failures[-1].started_at
    args, kwargs = codec.decode_arguments(row.arguments)
    return _result(
        as_enqueued(find(row.name, row.arguments), row.arguments),
        row.id,
        state,
        args,
        kwargs,
        row.created_at,
        errors=errors,
        worker_ids=_worker_ids(row.attempts, failures, row.consumer),
        started_at=_first_start(row.attempts, failures) or last,
        last_attempted_at=last,
        finished_at=row.finished_at if state in FINISHED else None,
        value=None if row.result is None else codec.decode_value(row.result),
    )


def _result(
    task: AnyTask,
    id: UUID,
    state: State,
    args: Any,
    kwargs: Any,
    enqueued_at: datetime,
    *,
    errors: list[TaskError] | None = None,
    worker_ids: list[str] | None = None,
    started_at: datetime | None = None,
    last_attempted_at: datetime | None = None,
    finished_at: datetime | None = None,
    value: Any = None,
) -> AnyResult:
    result: AnyResult = TaskResult(
        task=task,
        id=str(id),
        status=_STATUS[state],
        enqueued_at=enqueued_at,
        started_at=started_at,
        finished_at=finished_at,
        last_attempted_at=last_attempted_at,
        args=args,
        kwargs=kwargs,
        backend=task.backend,
        errors=errors or [],
        worker_ids=worker_ids or [],
    )
    object.__setattr__(result, "_return_value", value)
    return result


# Attempts


def _earlier(claimed: Claimed) -> list[Attempt]:
    """Return the failed attempts before this one; none if the queue does not answer: the task still runs."""
    if claimed.attempt == 1:
        return []
    try:
        return JobHandle(claimed.id).errors
    except Exception:
        text = "task %s %s: could not read its earlier attempts"
        logger.exception(text, claimed.name, claimed.id, extra=logs.of_job(claimed))
        return []


def _first_start(attempts: int, failures: Sequence[Attempt]) -> datetime | None:
    """Return the start of the first attempt, if its failure was recorded."""
    if attempts < 2 and not (attempts and failures):
        return None
    return next((f.started_at for f in reversed(failures) if f.number == 1), None)


def _worker_ids(attempts: int, failures: Sequence[Attempt], last: str | None) -> list[str]:
    """Return the consumer of each execution, in order."""
    workers = {failure.number: failure.consumer for failure in failures}
    if last is not None:
        workers[attempts] = last
    return [workers.get(number, UNKNOWN_WORKER) for number in range(1, attempts + 1)]


def _error(failure: Attempt) -> TaskError:
    return TaskError(exception_class_path=failure.exception_class, traceback=failure.traceback)


def _cancelled(reason: str | None) -> TaskError:
    """Return the error of a cancelled job: Django has no status for it, so it counts as failed."""
    path = f"{JobCancelled.__module__}.{JobCancelled.__qualname__}"
    return TaskError(exception_class_path=path, traceback=f"{path}: {reason or 'cancelled'}\n")
