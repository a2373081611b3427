"""Bound jobs: checked and encoded calls that are not enqueued yet; `run_many()` enqueues many of them."""

from __future__ import annotations

import reprlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic
from uuid import UUID

from asgiref.sync import sync_to_async

from djjp import bounds, codec, conf, redaction
from djjp.engine import NO_HOLDERS, KeyHolders, NewJob
from djjp.ids import new_id, new_ids
from djjp.jobs import constraints
from djjp.jobs.enqueue import aenqueue, enqueue
from djjp.jobs.functions import CallSignature
from djjp.jobs.handles import JobHandle
from djjp.jobs.hints import OF_CALL, Hints, to_bind
from djjp.jobs.options import JobOptions
from djjp.jobs.typevars import Result, T
from djjp.models import OnCrash, State

#: The number of jobs that `run_many` writes at once. A chunk is written whole or not at all.
CHUNK = 1000
#: The bytes of arguments at which a chunk ends earlier.
CHUNK_SIZE = 10_000_000

_ON_CRASH = {each.value: each for each in OnCrash}


# Not frozen: a frozen dataclass takes three times as long to construct, and every enqueue constructs one.
@dataclass(eq=False, slots=True, repr=False)
class BoundJob(Hints, Generic[Result]):
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
    signature: CallSignature
    arguments: str
    takes_input: bool = True
    missing_first: bool = False

    _words = OF_CALL

    def __repr__(self) -> str:
        text = redaction.call(
            self.arguments, self.signature.parameters.values(), has_input=self.missing_first
        )
        try:
            args, kwargs = codec.decode_arguments(text)
        except ValueError:  # they are too long, and hidden as a whole
            return f"<call {self.options.name}({redaction.substitute()})>"
        given = [reprlib.repr(each) for each in args]
        given += [f"{name}={reprlib.repr(value)}" for name, value in kwargs.items()]
        return f"<call {self.options.name}({', '.join(given)})>"

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
            if not first:
                raise
            name = self.signature.function
            where = f"{name} with the input from its pipeline first"
            raise TypeError(str(error).replace(name, where, 1)) from None

    def run_later(self) -> JobHandle[Result]:
        """Enqueue the call and return its handle; if another job holds its unique key, the handle of that job.

        Raises:
            TypeError: the call lacks its first argument, or no key can be built from its arguments.
            ValueError: a key is empty or longer than 200 characters.
            QueueUnavailable: the queue's database does not answer, and there is no outbox for the job.
        """
        row = self.to_row()
        return handle_of(row, enqueue([row], self.options.database))

    async def arun_later(self) -> JobHandle[Result]:
        """`run_later` for coroutines."""
        row = self.to_row()
        return handle_of(row, await aenqueue([row], self.options.database))

    def to_row(
        self,
        id: UUID | None = None,
        now: float | None = None,
        *,
        has_parents: bool = False,
        stamp: str | None = None,
    ) -> NewJob:
        """Return the row to enqueue.

        Args:
            id: the job's id; None for a new one.
            now: the time of the enqueue, in seconds since the epoch; None for now.
            has_parents: whether it runs behind other jobs of a pipeline.
            stamp: the release in the arguments, as `conf.release_stamp()` returns it; None to call that.

        Raises:
            TypeError, ValueError: as `run_later()`.
        """
        if self.missing_first and not has_parents:
            args, kwargs = codec.decode_arguments(self.arguments)
            self.signature.bind(*args, **kwargs)  # raises
        options, arguments = self.options, self.arguments
        if stamp is None:
            stamp = conf.release_stamp()
        if stamp:
            arguments = f"{arguments[:-1]}{stamp}}}"
        if now is None:
            now = time.time()
        due = None
        if options.run_after is not None:
            due = bounds.to_time("run_after", options.run_after, now)
        row = NewJob(
            id or new_id(),
            options.name,
            options.queue,
            options.priority,
            State.READY if due is None or due <= now else State.SCHEDULED,
            due,
            now,
            arguments,
            _ON_CRASH[options.on_crash],
        )
        if not options.has_constraints:
            return row
        takes_input = has_parents and self.takes_input
        return constraints.apply(options, self.signature, row, takes_input=takes_input)


def run_many(bound: Iterable[BoundJob[T]]) -> list[JobHandle[T]]:
    """Enqueue many calls, of any mix of jobs, and return their handles in order.

    The calls are taken from the iterable and written in chunks of 1,000, or of fewer large ones, each chunk
    whole or not at all.

    A call whose unique key another job holds gets the handle of that job.

    Raises:
        TypeError: something is no bound call, a call lacks its first argument, or no key can be built from its
            arguments.
        ValueError: a key is empty or longer than 200 characters.
        QueueUnavailable: the queue's database does not answer, and there is no outbox for the jobs. The
            chunks before this one are enqueued.
    """
    if not isinstance(bound, Iterable):
        raise TypeError(f"run_many() got {bound!r}; it takes a list of bound calls, or an iterable")
    handles: list[JobHandle[T]] = []
    for calls in _chunks(bound):
        now, ids, stamp = time.time(), new_ids(len(calls)), conf.release_stamp()
        rows = [call.to_row(id, now, stamp=stamp) for call, id in zip(calls, ids, strict=True)]
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


async def arun_many(bound: Iterable[BoundJob[T]]) -> list[JobHandle[T]]:
    """`run_many` for coroutines."""
    return await sync_to_async(run_many)(bound)


def handle_of(row: NewJob, held: KeyHolders) -> JobHandle[Any]:
    """Return the handle of an enqueued job, or of the job that has its unique key."""
    if held and row.id in held:
        return JobHandle(*held[row.id])
    return JobHandle(row.id, row.state)


def _chunks(bound: Iterable[BoundJob[T]]) -> Iterator[list[BoundJob[T]]]:
    chunk: list[BoundJob[T]] = []
    size = 0
    for call in bound:
        chunk.append(call)
        try:
            size += len(call.arguments)
        except AttributeError:
            raise TypeError(f"run_many() got {call!r}; it takes {to_bind(call)}") from None
        if len(chunk) == CHUNK or size >= CHUNK_SIZE:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
