"""Bound jobs: checked and encoded calls that are not enqueued yet; `run_many()` enqueues many of them."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from uuid import UUID

from asgiref.sync import sync_to_async
from django.conf import settings
from django.utils import timezone

from djjp import codec
from djjp.engine import NO_HOLDERS, KeyHolders, NewJob
from djjp.ids import new_id, new_ids
from djjp.jobs import constraints
from djjp.jobs.enqueue import aenqueue, enqueue
from djjp.jobs.handles import JobHandle
from djjp.jobs.options import JobOptions
from djjp.models import OnCrash, State

#: The number of jobs that `run_many` writes at once. A chunk is written whole or not at all.
CHUNK = 1000

_ON_CRASH = {each.value: each for each in OnCrash}


# Not frozen: a frozen dataclass takes three times as long to construct, and every enqueue constructs one.
@dataclass(eq=False, slots=True)
class BoundJob:
    """A call of a job that is not enqueued yet.

    Attributes:
        options: the options of the job.
        signature: the parameters of its function.
        arguments: the encoded arguments.
        takes_input: whether, behind another job of a pipeline, the call gets that job's result ahead of
            its own arguments.
        missing_first: whether the call lacks its first argument, so that only a pipeline can run it.
    """

    options: JobOptions
    signature: inspect.Signature
    arguments: str
    takes_input: bool = True
    missing_first: bool = False

    def validate(self, *, has_parents: bool = False) -> None:
        """Raise TypeError if the call does not fit the function, with the input from a pipeline or without.

        Args:
            has_parents: whether it runs behind other jobs of a pipeline.
        """
        args, kwargs = codec.decode_arguments(self.arguments)
        first = [None] if has_parents and self.takes_input else []
        try:
            self.signature.bind(*first, *args, **kwargs)
        except TypeError as error:
            where = " with the input from its pipeline first" if first else ""
            raise TypeError(f"{self.options.name}{where}: {error}") from None

    def run_later(self) -> JobHandle:
        """Enqueue the call and return its handle: of the job that has its unique key, if another one has.

        Raises:
            TypeError: the call lacks its first argument, or a key cannot be made of its arguments.
            ValueError: a key is empty or longer than 200 characters.
            QueueUnavailable: the queue's database does not answer, and there is no outbox for the job.
        """
        row = self.to_row()
        return handle_of(row, enqueue([row], self.options.database))

    async def arun_later(self) -> JobHandle:
        """`run_later` for coroutines."""
        row = self.to_row()
        return handle_of(row, await aenqueue([row], self.options.database))

    def to_row(
        self, id: UUID | None = None, now: float | None = None, *, has_parents: bool = False
    ) -> NewJob:
        """Return the row to enqueue.

        Args:
            id: the job's id; None for a new one.
            now: the time of the enqueue, in seconds since the epoch; None for now.
            has_parents: whether it runs behind other jobs of a pipeline.

        Raises:
            TypeError, ValueError: as `run_later()`.
        """
        if self.missing_first and not has_parents:
            args, kwargs = codec.decode_arguments(self.arguments)
            self.signature.bind(*args, **kwargs)  # raises
        options = self.options
        if now is None:
            now = time.time()
        due = None if options.run_after is None else _due(options.run_after, now)
        row = NewJob(
            id or new_id(),
            options.name,
            options.queue,
            options.priority,
            State.READY if due is None or due <= now else State.SCHEDULED,
            due,
            now,
            self.arguments,
            _ON_CRASH[options.on_crash],
        )
        if not options.has_constraints:
            return row
        takes_input = has_parents and self.takes_input
        return constraints.apply(options, self.signature, row, takes_input=takes_input)


def run_many(bound: Iterable[BoundJob]) -> list[JobHandle]:
    """Enqueue many calls, of any mix of jobs, and return their handles in order.

    The calls are taken from the iterable and written in chunks of 1,000, each whole or not at all.

    Raises:
        TypeError: a call lacks its first argument, or a key cannot be made of its arguments.
        ValueError: a key is empty or longer than 200 characters.
        QueueUnavailable: the queue's database does not answer, and there is no outbox for the jobs. The
            chunks before this one are enqueued.
    """
    handles: list[JobHandle] = []
    for calls in _chunks(bound):
        now, ids = time.time(), new_ids(len(calls))
        rows = [call.to_row(id, now) for call, id in zip(calls, ids, strict=True)]
        databases = {call.options.database for call in calls}
        held: KeyHolders = NO_HOLDERS
        if len(databases) == 1:  # as a rule: None
            held = enqueue(rows, *databases)
        else:
            for database in databases:
                pairs = zip(calls, rows, strict=True)
                theirs = [row for call, row in pairs if call.options.database == database]
                held = {**held, **enqueue(theirs, database)}
        if held:
            handles += [handle_of(row, held) for row in rows]
        else:
            handles += [JobHandle(row.id, row.state) for row in rows]
    return handles


async def arun_many(bound: Iterable[BoundJob]) -> list[JobHandle]:
    """`run_many` for coroutines."""
    return await sync_to_async(run_many)(bound)


def handle_of(row: NewJob, held: KeyHolders) -> JobHandle:
    """Return the handle of an enqueued job, or of the job that has its unique key."""
    if row.id in held:
        return JobHandle(*held[row.id])
    return JobHandle(row.id, row.state)


def _chunks(bound: Iterable[BoundJob]) -> Iterator[list[BoundJob]]:
    calls = iter(bound)
    while chunk := list(islice(calls, CHUNK)):
        yield chunk


def _due(run_after: timedelta | datetime, now: float) -> float:
    """Return seconds since the epoch; a naive datetime is in Django's current time zone."""
    if isinstance(run_after, timedelta):
        return now + run_after.total_seconds()
    if timezone.is_naive(run_after) and settings.USE_TZ:
        run_after = timezone.make_aware(run_after)
    return run_after.timestamp()
