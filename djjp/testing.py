"""Tools for the tests of projects that use djjp: run jobs, and list and assert enqueued jobs.

They work where Django's tests do: inside the transactions of a `TestCase`, on its connections. A test
that uses them must name the queue's alias: `databases = {"default", "queue"}`, or in pytest
`@pytest.mark.django_db(databases=["default", "queue"])`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.test.testcases import DatabaseOperationForbidden  # type: ignore[attr-defined]  # not in the stubs

from djjp import codec, conf
from djjp.consumer.inline import run_due
from djjp.durations import to_datetime
from djjp.engine import KeyHolders, NewGraph, NewJob
from djjp.jobs import JobHandle, RegisteredJob, enqueue
from djjp.models import Job
from djjp.outbox import serialization, table

__all__ = [
    "EnqueuedJob",
    "adrain",
    "assert_enqueued",
    "assert_not_enqueued",
    "captured_jobs",
    "drain",
    "inline",
]

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


# Run


def drain(queues: str | Sequence[str] | None = None, max_jobs: int | None = None) -> int:
    """Run all due jobs here and now, in this thread; return the number of executions.

    The jobs of an outbox are relayed first; so are, inside a TestCase, jobs that wait for its commit. Jobs
    that jobs enqueue, steps that they release and due retries run too; jobs that are not due yet are
    left. A job that fails is recorded as failed, as by a consumer. A timeout is not enforced.

    Args:
        queues: the queues to serve; None for all.
        max_jobs: stop after this number of executions; None for no limit.

    Raises:
        TransactionManagementError: it is called inside `atomic()` of a database that has an outbox.
        ValueError: `max_jobs` is no whole number, 0 or more.
    """
    if max_jobs is not None and (type(max_jobs) is not int or max_jobs < 0):
        raise ValueError(f"max_jobs is {max_jobs!r}; it must be a whole number, 0 or more, or None")
    with _explained():
        return run_due([queues] if isinstance(queues, str) else queues, max_jobs)


async def adrain(queues: str | Sequence[str] | None = None, max_jobs: int | None = None) -> int:
    """`drain` for coroutines."""
    return await sync_to_async(drain)(queues, max_jobs)


@contextmanager
def inline() -> Iterator[None]:
    """Run each job at once where it is enqueued, in any thread, also inside `atomic()`.

    Its arguments and its result go through the codec, and its row through the queue. A job that fails is
    recorded as failed, as its handle shows. A job that must run later waits.
    """
    with _test_sender() as sender, _explained():
        before, sender.runs_inline = sender.runs_inline, True
        try:
            yield
        finally:
            sender.runs_inline = before


# List


@contextmanager
def captured_jobs() -> Iterator[list[EnqueuedJob]]:
    """Collect the jobs that are enqueued inside the block, in any thread, wherever they go.

    A job is listed once it was enqueued, also when a transaction is rolled back later.
    """
    jobs: list[EnqueuedJob] = []
    with _test_sender() as sender:
        sender.captures.append(jobs)
        try:
            yield jobs
        finally:
            sender.captures[:] = [each for each in sender.captures if each is not jobs]


class _TestSender(enqueue.Sender):
    """Sends jobs as ever or, for `inline()`, past open transactions; and lists and runs them."""

    def __init__(self, replaced: enqueue.Sender) -> None:
        self.replaced = replaced
        self.runs_inline = False
        self.captures: list[list[EnqueuedJob]] = []

    def send(self, jobs: enqueue.Unit, database: str | None) -> KeyHolders:
        alias = None if self.runs_inline else self.find_transaction(database)
        destination, held = self.route(jobs, alias)
        sent = jobs.jobs if isinstance(jobs, NewGraph) else jobs
        for capture in tuple(self.captures):
            capture += [_from_new(each, destination) for each in sent if each.id not in held]
        if self.runs_inline:
            run_due(relay=False)
        return held


@contextmanager
def _test_sender() -> Iterator[_TestSender]:
    """Replace the sender of all enqueues as long as a block needs it; overlapping blocks share one."""
    current = enqueue.sender
    sender = current if isinstance(current, _TestSender) else _TestSender(current)
    enqueue.sender = sender
    try:
        yield sender
    finally:
        if not sender.runs_inline and not sender.captures:
            enqueue.sender = sender.replaced


def assert_enqueued(
    job: Any,
    args: Sequence[Any] | None = None,
    kwargs: dict[str, Any] | None = None,
    *,
    count: int | None = None,
    queue: str | None = None,
    priority: int | None = None,
) -> list[EnqueuedJob]:
    """Assert that a job was enqueued: that the queue or an outbox has its row, whatever its state.

    Args:
        job: a `@job` function, a task of Django's framework, or the name of either.
        args: its positional arguments; None for any.
        kwargs: its keyword arguments; None for any.
        count: the exact number of such jobs; None for one or more.
        queue: its queue; None for any.
        priority: its priority; None for any.

    Returns:
        The jobs found, in the order in which they were enqueued.

    Raises:
        AssertionError: there are none, or not `count`; the message lists the enqueued jobs.
        TypeError: `job` is neither a job, nor a task, nor a name.
    """
    __tracebackhide__ = True
    wanted = _Wanted(job, args, kwargs, queue, priority)
    everything = _enqueued()
    found = [each for each in everything if wanted.fits(each)]
    if (not found) if count is None else (len(found) != count):
        expected = "at least 1" if count is None else str(count)
        raise AssertionError(
            f"{wanted}: {len(found)} enqueued, expected {expected}.\n{_listed(everything)}"
        )
    return found


def assert_not_enqueued(
    job: Any,
    args: Sequence[Any] | None = None,
    kwargs: dict[str, Any] | None = None,
    *,
    queue: str | None = None,
    priority: int | None = None,
) -> None:
    """Assert that no such job was enqueued; the arguments are those of `assert_enqueued`."""
    __tracebackhide__ = True
    assert_enqueued(job, args, kwargs, count=0, queue=queue, priority=priority)


class _Wanted:
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
    """Return the name under which a job is enqueued, and what converts an argument to the one it will get."""
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


def _enqueued() -> list[EnqueuedJob]:
    """Return the jobs in the outboxes and the queue, in the order in which they were enqueued."""
    found: dict[UUID, EnqueuedJob] = {}
    with _explained():
        for alias in table.outboxes():
            last = None
            while page := table.page(alias, last, _PAGE):
                for unit in page:
                    jobs = serialization.jobs_of(unit.text)
                    found |= {job.id: _from_new(job, "outbox") for job in jobs}
                last = page[-1].id
        for row in Job.objects.using(conf.current().db_name).order_by("pk"):
            found[row.pk] = _from_row(row)
    return [found[id] for id in sorted(found)]


def _from_new(job: NewJob, destination: str) -> EnqueuedJob:
    args, kwargs = codec.decode_arguments(job.arguments)
    due = None if job.run_after is None else to_datetime(job.run_after)
    return EnqueuedJob(
        job.id, job.name, tuple(args), kwargs, job.queue, job.priority, due, destination
    )


def _from_row(job: Job) -> EnqueuedJob:
    args, kwargs = codec.decode_arguments(job.arguments)
    return EnqueuedJob(
        job.pk, job.name, tuple(args), kwargs, job.queue, job.priority, job.run_after, "queue"
    )


def _listed(jobs: list[EnqueuedJob]) -> str:
    if not jobs:
        return "Nothing was enqueued."
    lines = [f"  {job}" for job in jobs[:_LISTED]]
    if len(jobs) > _LISTED:
        lines.append(f"  … and {len(jobs) - _LISTED} more")
    return "\n".join(["Enqueued:", *lines])


@contextmanager
def _explained() -> Iterator[None]:
    """Name the databases that a test must name, where Django refuses it one of them."""
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
