"""The jobs that a test has enqueued: their data, where they are found, and which of them an assertion matches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.test.testcases import DatabaseOperationForbidden  # type: ignore[attr-defined]  # not in the stubs

from djjp import call_options, codec, conf
from djjp.durations import to_datetime
from djjp.engine import NewJob
from djjp.jobs import JobHandle, RegisteredJob
from djjp.models import Flag, Job
from djjp.models import listed as listed_jobs
from djjp.outbox import serialization, table

_PAGE = 500
# The number of jobs that a failed assertion lists.
_LISTED = 20


@dataclass(frozen=True)
class EnqueuedJob:
    """A job as it was enqueued.

    Attributes:
        id: its id in the queue.
        name: the name of the `@job` function or the task.
        args, kwargs: its arguments, decoded as the job will get them.
        queue, priority: its queue and its priority.
        run_after: its earliest start; None for at once.
        tags: its tags.
        destination: where it went, or is: "queue", "outbox", or "on_commit" while it only waits for the
            commit of its transaction.
    """

    id: UUID
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    queue: str
    priority: int
    run_after: datetime | None
    destination: str
    tags: tuple[str, ...] = ()

    @property
    def handle(self) -> JobHandle:
        """Its handle."""
        return JobHandle(self.id)

    def __str__(self) -> str:
        call = [*map(repr, self.args), *(f"{k}={v!r}" for k, v in self.kwargs.items())]
        text = f"{self.name}({', '.join(call)}) in queue {self.queue!r}"
        text += f", priority {self.priority}" if self.priority else ""
        text += f", not before {self.run_after}" if self.run_after else ""
        return f"{text} ({self.destination})"


class Wanted:
    """The jobs that an assertion searches for."""

    def __init__(
        self,
        job: Any,
        args: Sequence[Any] | None,
        kwargs: dict[str, Any] | None,
        queue: str | None,
        priority: int | None,
    ) -> None:
        name, convert = _named(job)
        values: dict[str, Any] = {"name": name, "queue": queue, "priority": priority}
        if args is not None:
            values["args"] = tuple(convert(each) for each in args)
        if kwargs is not None:
            values["kwargs"] = {key: convert(value) for key, value in kwargs.items()}
        self._values = {key: value for key, value in values.items() if value is not None}

    def fits(self, job: EnqueuedJob) -> bool:
        return all(getattr(job, key) == value for key, value in self._values.items())

    def __str__(self) -> str:
        name, *others = (f"{k}={v!r}" if k != "name" else v for k, v in self._values.items())
        return f"{name} with {', '.join(others)}" if others else str(name)


def _named(job: Any) -> tuple[str, Callable[[Any], Any]]:
    """Return a job's name, and the function that converts an argument as its enqueue does."""
    if isinstance(job, str):
        return job, _through_codec
    task = getattr(job, "task", job)
    if hasattr(task, "module_path"):
        from djjp.tasks.compat import normalize_json

        return task.module_path, normalize_json
    if isinstance(job, RegisteredJob):
        return job.name, _through_codec
    raise TypeError(f"{job!r} is neither a job, nor a task, nor the name of one")


def _through_codec(value: Any) -> Any:
    return codec.decode_value(codec.encode_value(value, "an argument to compare"))


def all_enqueued() -> list[EnqueuedJob]:
    """Return the jobs in the outboxes and the queue, in the order in which they were enqueued."""
    found: dict[UUID, EnqueuedJob] = {}
    with explained_refusals():
        for alias in table.outboxes():
            last = None
            while page := [row.id for row in table.waiting(alias, last, _PAGE)]:
                for waiting in table.read(alias, page):
                    found |= {job.id: job for job in from_new(_unit(waiting.text), "outbox")}
                last = page[-1]
        for row in listed_jobs(Job.objects.using(conf.current().db_name)).order_by("pk"):
            found[row.pk] = _from_row(row)
    return [found[id] for id in sorted(found)]


def _unit(text: str) -> list[NewJob]:
    jobs = serialization.steps_of(serialization.from_text(text))
    return [job for job in jobs if not job.flags & Flag.STAND_IN]


def from_new(jobs: Sequence[NewJob], destination: str) -> list[EnqueuedJob]:
    return [_from_new(job, destination) for job in jobs if not job.flags & Flag.UNLISTED]


def _from_new(job: NewJob, destination: str) -> EnqueuedJob:
    args, kwargs = codec.decode_arguments(job.arguments)
    due = None if job.run_after is None else to_datetime(job.run_after)
    tags = tuple(call_options.tags_of(job.options))
    return EnqueuedJob(
        job.id, job.name, tuple(args), kwargs, job.queue, job.priority, due, destination, tags
    )


def _from_row(job: Job) -> EnqueuedJob:
    args, kwargs = codec.decode_arguments(job.arguments)
    call = (job.pk, job.name, tuple(args), kwargs, job.queue, job.priority, job.run_after)
    return EnqueuedJob(*call, "queue", tuple(job.tags))


def listed(jobs: list[EnqueuedJob]) -> str:
    if not jobs:
        return "Nothing was enqueued."
    lines = [f"  {job}" for job in jobs[:_LISTED]]
    if len(jobs) > _LISTED:
        lines.append(f"  … and {len(jobs) - _LISTED} more")
    return "\n".join(["Enqueued:", *lines])


@contextmanager
def explained_refusals() -> Iterator[None]:
    """Add to Django's refusal of a database the databases that the test class must name."""
    try:
        yield
    except DatabaseOperationForbidden as error:
        aliases = sorted({*table.outboxes(), conf.current().db_name})
        if not any(repr(alias) in str(error) for alias in aliases):
            raise  # a database that djjp does not use
        raise DatabaseOperationForbidden(
            f"{error} djjp's tools need databases = {{{json.dumps(aliases)[1:-1]}}} in the test class; "
            f"in pytest, @pytest.mark.django_db(databases={json.dumps(aliases)})"
        ) from None
