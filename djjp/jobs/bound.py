"""Bound jobs: calls that are not made yet, checked and encoded, by themselves or as steps of a pipeline."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from django.conf import settings
from django.utils import timezone

from djjp import codec
from djjp.engine import KeyHolders, NewJob
from djjp.ids import new_id
from djjp.jobs import constraints
from djjp.jobs.enqueue import aenqueue, enqueue
from djjp.jobs.handles import JobHandle
from djjp.models import OnCrash, State

if TYPE_CHECKING:
    from djjp.jobs import RegisteredJob


_ON_CRASH = {each.value: each for each in OnCrash}


# Not frozen: to make such a one takes three times as long, for each call that is enqueued.
@dataclass(eq=False, slots=True)
class BoundJob:
    """A call that is not made yet.

    Attributes:
        job: what to call, with its options.
        arguments: the encoded arguments.
    """

    job: RegisteredJob[..., Any]
    arguments: str

    #: Whether it gets the results of those before it in a pipeline, ahead of its arguments.
    receives: ClassVar[bool] = True

    def check(self, *, behind: bool = False) -> None:
        """Raise TypeError if the call does not fit the function, alone or behind another job of a pipeline."""
        args, kwargs = codec.decode_arguments(self.arguments)
        first = [None] if behind and self.receives else []
        try:
            self.job.signature.bind(*first, *args, **kwargs)
        except TypeError as error:
            where = " behind what it receives" if first else ""
            raise TypeError(f"{self.job.name}{where}: {error}") from None

    def run_later(self) -> JobHandle:
        """Enqueue the call and return its handle."""
        row = self.row()
        return handle_of(row, enqueue([row], self.job.database))

    async def arun_later(self) -> JobHandle:
        """`run_later` for coroutines."""
        row = self.row()
        return handle_of(row, await aenqueue([row], self.job.database))

    def row(self, id: UUID | None = None, now: float | None = None) -> NewJob:
        """The row to enqueue; without an id and a time that many calls were given, with its own."""
        self._must_stand_alone()
        return self.step(id, now)

    def _must_stand_alone(self) -> None:
        """Raise TypeError for a call that waits for its first argument."""

    def step(
        self, id: UUID | None = None, now: float | None = None, *, behind: bool = False
    ) -> NewJob:
        """`row()` for a place in a pipeline, behind another job or not, where the call was checked."""
        job = self.job
        if now is None:
            now = time.time()
        due = None if job.run_after is None else _due(job.run_after, now)
        state = State.READY if due is None or due <= now else State.SCHEDULED
        on_crash = _ON_CRASH[job.on_crash]
        row = NewJob(
            id or new_id(),
            job.name,
            job.queue,
            job.priority,
            state,
            due,
            now,
            self.arguments,
            on_crash,
        )
        if not job.has_terms:
            return row
        return constraints.agreed(job, row, receives=behind and self.receives)


class BoundRest(BoundJob):
    """A call that lacks its first argument, which another job of a pipeline is to give."""

    __slots__ = ()

    def _must_stand_alone(self) -> None:
        args, kwargs = codec.decode_arguments(self.arguments)
        self.job.signature.bind(*args, **kwargs)


class BoundAlone(BoundJob):
    """A call that takes nothing from other jobs of a pipeline."""

    __slots__ = ()

    receives = False


def handle_of(row: NewJob, held: KeyHolders) -> JobHandle:
    """The handle of an enqueued job, or of the one that has its unique key."""
    if row.id in held:
        return JobHandle(*held[row.id])
    return JobHandle(row.id, row.state)


def _due(run_after: timedelta | datetime, now: float) -> float:
    """Seconds since the epoch; a naive datetime is in Django's current time zone."""
    if isinstance(run_after, timedelta):
        return now + run_after.total_seconds()
    if timezone.is_naive(run_after) and settings.USE_TZ:
        run_after = timezone.make_aware(run_after)
    return run_after.timestamp()
