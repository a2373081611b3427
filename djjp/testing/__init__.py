"""Tools for the tests of projects that use djjp: run jobs, and list and assert enqueued jobs.

They work where Django's tests do: inside the transactions of a `TestCase`, on its connections. A test
that uses them must name the queue's alias: `databases = {"default", "queue"}`, or in pytest
`@pytest.mark.django_db(databases=["default", "queue"])`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from asgiref.sync import sync_to_async

from djjp import conf
from djjp.consumer.inline import run_due
from djjp.engine import KeyHolders, NewPipeline
from djjp.jobs import enqueue
from djjp.testing.enqueued import (
    EnqueuedJob,
    Wanted,
    all_enqueued,
    explained_refusals,
    from_new,
    listed,
)

__all__ = [
    "EnqueuedJob",
    "adrain",
    "assert_enqueued",
    "assert_not_enqueued",
    "captured_jobs",
    "drain",
    "inline",
]

# Run


def drain(
    queues: str | Sequence[str] | None = None,
    max_jobs: int | None = None,
    *,
    raise_errors: bool = False,
    skip_delays: bool = False,
) -> int:
    """Run all due jobs here and now, in this thread; return the number of executions.

    The jobs of an outbox are relayed first; so are, inside a TestCase, jobs that wait for its commit. Jobs
    that jobs enqueue, steps that they release and due retries run too; jobs that are not due yet
    stay. A job that fails is recorded as failed, as by a consumer. A timeout is not enforced.

    Args:
        queues: the queues to serve; None for all.
        max_jobs: stop after this number of executions; None for no limit.
        raise_errors: raise the exception of the first job that fails for good, as the job raised it. It is
            recorded too; the jobs after it stay. A failure that `return_exceptions` passes on is not raised.
        skip_delays: run the jobs that wait for a time, a backoff or a rate too, once no other is due, the
            earliest first. The clock is not changed.

    Raises:
        TransactionManagementError: it is called inside `atomic()` of a database that has an outbox.
        ValueError: `max_jobs` is no whole number, 0 or more.
    """
    if max_jobs is not None and (type(max_jobs) is not int or max_jobs < 0):
        raise ValueError(f"max_jobs is {max_jobs!r}; it must be a whole number, 0 or more, or None")
    with explained_refusals():
        return run_due(
            [queues] if isinstance(queues, str) else queues,
            max_jobs,
            skip_delays=skip_delays,
            raise_errors=raise_errors,
        )


async def adrain(
    queues: str | Sequence[str] | None = None,
    max_jobs: int | None = None,
    *,
    raise_errors: bool = False,
    skip_delays: bool = False,
) -> int:
    """`drain` for coroutines."""
    return await sync_to_async(drain)(
        queues, max_jobs, raise_errors=raise_errors, skip_delays=skip_delays
    )


@contextmanager
def inline(*, raise_errors: bool = False) -> Iterator[None]:
    """Run each job at once where it is enqueued, in any thread, also inside `atomic()`.

    Its arguments and its result go through the codec, and its row through the queue. A job that fails is
    recorded as failed, as its handle shows. A job that must run later waits.

    Args:
        raise_errors: raise the exception of a job that fails for good where it is enqueued, as the job
            raised it. It is recorded too. A failure that `return_exceptions` passes on is not raised.
    """
    with _test_sender() as sender, explained_refusals():
        before = sender.runs_inline, sender.raises_errors
        sender.runs_inline, sender.raises_errors = True, raise_errors
        try:
            yield
        finally:
            sender.runs_inline, sender.raises_errors = before


# List


@contextmanager
def captured_jobs() -> Iterator[list[EnqueuedJob]]:
    """Collect the jobs that are enqueued inside the block, in any thread and for any destination.

    A job is listed once it was enqueued, also when a transaction is rolled back later.
    """
    jobs: list[EnqueuedJob] = []
    with _test_sender() as sender:
        sender.captures.append(jobs)
        try:
            yield jobs
        finally:
            sender.captures[:] = [each for each in sender.captures if each is not jobs]


class _Here(threading.local):
    """The state of one thread: whether the jobs that it sends are held back."""

    holds = False


class _TestSender(enqueue.Sender):
    """Sends jobs as usual or, for `inline()`, past open transactions; and lists and runs them."""

    def __init__(self, replaced: enqueue.Sender) -> None:
        self.replaced = replaced
        self.runs_inline = False
        self.raises_errors = False
        self.captures: list[list[EnqueuedJob]] = []
        self._here = _Here()

    def send(self, jobs: enqueue.Unit, database: str | None) -> KeyHolders:
        settings = conf.current()
        alias = None if self.runs_inline else self.find_transaction(database, settings)
        destination, held = self.route_hooked(jobs, alias, settings.db_name)
        sent = jobs.jobs if isinstance(jobs, NewPipeline) else jobs
        for capture in tuple(self.captures):
            capture.extend(from_new([each for each in sent if each.id not in held], destination))
        if self.runs_inline and not self._here.holds:
            run_due(relay=False, raise_errors=self.raises_errors)
        return held

    @contextmanager
    def held_back(self) -> Iterator[bool]:
        runs_here = self.runs_inline and not self._here.holds
        self._here.holds |= runs_here
        try:
            yield runs_here
        finally:
            self._here.holds &= not runs_here
        if runs_here:
            run_due(relay=False, raise_errors=self.raises_errors)


@contextmanager
def _test_sender() -> Iterator[_TestSender]:
    """Replace the sender of all enqueues inside the block; overlapping blocks share one."""
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
    wanted = Wanted(job, args, kwargs, queue, priority)
    everything = all_enqueued()
    found = [each for each in everything if wanted.fits(each)]
    if (not found) if count is None else (len(found) != count):
        expected = "at least 1" if count is None else str(count)
        raise AssertionError(
            f"{wanted}: {len(found)} enqueued, expected {expected}.\n{listed(everything)}"
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
