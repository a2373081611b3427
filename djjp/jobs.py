"""`@job` and enqueueing: from a function and its arguments to a row of the queue.

Everything that can be wrong with a call is found here, before anything is written: a call that does
not fit the function's signature, an argument that the codec cannot carry.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property, partial, update_wrapper
from itertools import islice
from types import FunctionType
from typing import Any, Generic, ParamSpec, TypeVar, overload

from asgiref.sync import sync_to_async
from django.conf import settings
from django.utils import timezone

from djjp import claims, codec, registry
from djjp.claims import NewJob
from djjp.handles import JobHandle, aget_job, get_job
from djjp.ids import new_id
from djjp.models import State

__all__ = [
    "BoundJob",
    "JobHandle",
    "RegisteredJob",
    "aget_job",
    "arun_many",
    "get_job",
    "job",
    "run_many",
]

P = ParamSpec("P")
R = TypeVar("R")

#: How many jobs `run_many` sends at once. A chunk is written whole or not at all.
CHUNK = 1000

_MAX_NAME, _MAX_QUEUE = 200, 100
_PRIORITIES = range(-32768, 32768)


@dataclass(eq=False)
class RegisteredJob(Generic[P, R]):
    """A function that can run later; calling it still runs it here and now.

    Attributes:
        function: the plain function or coroutine function.
        name: the name under which its rows find it again.
        queue: where its jobs wait.
        priority: higher is claimed first.
        run_after: when its jobs may start, if not at once.
    """

    function: Callable[P, R]
    name: str
    queue: str = "default"
    priority: int = 0
    run_after: timedelta | datetime | None = None

    def __post_init__(self) -> None:
        _check_text("name", self.name, _MAX_NAME)
        _check_text("queue", self.queue, _MAX_QUEUE)
        if type(self.priority) is not int or self.priority not in _PRIORITIES:
            raise ValueError(
                f"priority is {self.priority!r}; it must be a whole number from "
                f"{_PRIORITIES[0]} to {_PRIORITIES[-1]}"
            )
        if not isinstance(self.run_after, (timedelta, datetime, type(None))):
            raise TypeError(
                f"run_after is {self.run_after!r}; it must be a timedelta from now or a datetime"
            )
        update_wrapper(self, self.function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    @cached_property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.function)

    @cached_property
    def is_coroutine(self) -> bool:
        return inspect.iscoroutinefunction(self.function)

    def using(
        self,
        *,
        queue: str | None = None,
        priority: int | None = None,
        run_after: timedelta | datetime | None = None,
    ) -> RegisteredJob[P, R]:
        """The same job with other options, for the calls made through what is returned.

        Args:
            queue: where the job waits; a queue exists by being named.
            priority: higher is claimed first.
            run_after: not before this time, or this long from the enqueue.
        """
        given = {"queue": queue, "priority": priority, "run_after": run_after}
        return replace(self, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]  # each under its own name

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> BoundJob:
        """A call that is not made yet, its arguments checked and encoded: for `run_many`.

        Raises:
            TypeError: the arguments do not fit the function.
            EncodeError: an argument that the codec cannot carry; the message names it.
        """
        self.signature.bind(*args, **kwargs)
        arguments = codec.encode_arguments(args, kwargs, partial(self._positional_names, len(args)))
        return BoundJob(self, arguments)

    def run_later(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle:
        """Enqueue a call and return its handle; raises as `bind` does, and then nothing is written."""
        return self.bind(*args, **kwargs).run_later()

    async def arun_later(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle:
        """`run_later` for coroutines."""
        return await self.bind(*args, **kwargs).arun_later()

    def _positional_names(self, count: int) -> Sequence[str]:
        names: list[str] = []
        for parameter in self.signature.parameters.values():
            if parameter.kind is parameter.VAR_POSITIONAL:
                names += [f"{parameter.name}[{i}]" for i in range(count - len(names))]
            elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                names.append(parameter.name)
        return names[:count]


@dataclass(frozen=True)
class BoundJob:
    """A call that is not made yet.

    Attributes:
        job: what to call, with its options.
        arguments: the encoded arguments.
    """

    job: RegisteredJob[..., Any]
    arguments: str

    def run_later(self) -> JobHandle:
        """Enqueue the call and return its handle."""
        row = self.row()
        claims.call(lambda queue: queue.enqueue(row))
        return JobHandle(row.id, row.state)

    async def arun_later(self) -> JobHandle:
        """`run_later` for coroutines."""
        return await sync_to_async(self.run_later)()

    def row(self) -> NewJob:
        """The row to enqueue, with an id and a time of its own."""
        job, now = self.job, time.time()
        due = _due(job.run_after, now)
        state = State.READY if due is None or due <= now else State.SCHEDULED
        return NewJob(new_id(), job.name, job.queue, job.priority, state, due, now, self.arguments)


def run_many(bound: Iterable[BoundJob]) -> list[JobHandle]:
    """Enqueue many calls, of any mix of jobs; returns their handles in order.

    The calls are taken from the iterable and written in chunks of 1,000, each whole or not at all.
    """
    handles: list[JobHandle] = []
    for rows in _chunks(bound):
        claims.call(lambda queue, rows=rows: queue.enqueue_many(rows))  # type: ignore[misc]  # the default binds this chunk
        handles += [JobHandle(row.id, row.state) for row in rows]
    return handles


async def arun_many(bound: Iterable[BoundJob]) -> list[JobHandle]:
    """`run_many` for coroutines."""
    return await sync_to_async(run_many)(bound)


def _chunks(bound: Iterable[BoundJob]) -> Iterator[list[NewJob]]:
    calls = iter(bound)
    while rows := [call.row() for call in islice(calls, CHUNK)]:
        yield rows


@overload
def job(function: Callable[P, R], /) -> RegisteredJob[P, R]: ...
@overload
def job(
    *, name: str | None = None, queue: str = "default", priority: int = 0
) -> Callable[[Callable[P, R]], RegisteredJob[P, R]]: ...
def job(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    queue: str = "default",
    priority: int = 0,
) -> Any:
    """Make a function or coroutine function a job: `@job` or `@job(name=...)`.

    Args:
        name: under which the rows of the queue find the function again; its dotted path by default.
            A name of your own lets the function move while its jobs wait.
        queue: where its jobs wait; a queue exists by being named.
        priority: higher is claimed first; −32768 to 32767.

    Raises:
        JobNameTaken: another function has the name.
    """
    if function is None:
        return partial(_register, name=name, queue=queue, priority=priority)
    return _register(function, name=name, queue=queue, priority=priority)


def _register(function: Callable[P, R], *, name: str | None, **options: Any) -> RegisteredJob[P, R]:
    if not isinstance(function, FunctionType):
        raise TypeError(f"@job takes a function or a coroutine function, not {function!r}")
    default = f"{function.__module__}.{function.__qualname__}"
    registered: RegisteredJob[P, R] = RegisteredJob(
        function, default if name is None else name, **options
    )
    registry.add(registered)
    return registered


def _check_text(option: str, value: object, longest: int) -> None:
    if not isinstance(value, str) or not 1 <= len(value) <= longest:
        raise ValueError(f"{option} is {value!r}; it must be a text of 1 to {longest} characters")


def _due(run_after: timedelta | datetime | None, now: float) -> float | None:
    """Seconds since the epoch; a naive datetime is in Django's current time zone."""
    if run_after is None:
        return None
    if isinstance(run_after, timedelta):
        return now + run_after.total_seconds()
    if timezone.is_naive(run_after) and settings.USE_TZ:
        run_after = timezone.make_aware(run_after)
    return run_after.timestamp()
