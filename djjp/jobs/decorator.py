"""`@job` and enqueueing: from a function and its arguments to a row of the queue.

Everything that can be wrong with a call is found here, before anything is written: a call that does
not fit the function's signature, an argument that the codec cannot carry.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property, partial, update_wrapper
from types import FunctionType
from typing import Any, Generic, ParamSpec, TypeVar, overload

from djjp import codec, limits, schedules
from djjp.durations import seconds
from djjp.engine import Claimed, Outcome
from djjp.jobs import options, registry
from djjp.jobs.bound import BoundAlone, BoundJob, BoundRest
from djjp.jobs.handles import JobHandle
from djjp.jobs.retries import Backoff, exponential
from djjp.limits import Key, Limit, Rate
from djjp.models import CatchUp, OnCrash

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(eq=False)
class RegisteredJob(Generic[P, R]):
    """A function that can run later; calling it still runs it here and now.

    Attributes:
        function: the plain function or coroutine function.
        name: the name under which its rows find it again.
        queue: where its jobs wait.
        priority: higher is claimed first.
        run_after: when its jobs may start, if not at once.
        database: the alias whose transaction an enqueue belongs to, if not the innermost.
        max_attempts, backoff, retry_on, timeout, on_crash, limit, unique_key, unique_until,
            expires_after, cron, tz, every, catch_up, schedule_args, schedule_kwargs: as `job()` takes them.
    """

    function: Callable[P, R]
    name: str
    queue: str = "default"
    priority: int = 0
    run_after: timedelta | datetime | None = None
    max_attempts: int | None = None
    backoff: Backoff = exponential
    retry_on: type[BaseException] | tuple[type[BaseException], ...] = Exception
    timeout: float | timedelta | None = None
    on_crash: str = OnCrash.RETRY
    database: str | None = None
    limit: Limit | Rate | None = None
    unique_key: Key | None = None
    unique_until: str = "finish"
    expires_after: float | timedelta | None = None
    cron: str | None = None
    tz: str | None = None
    every: float | timedelta | None = None
    catch_up: str = CatchUp.ONCE
    schedule_args: Sequence[Any] = ()
    schedule_kwargs: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        options.check(self)
        if self.limit is not None:
            limits.check_places(
                f"the key of a {type(self.limit).__name__}", self.limit.key, self.signature
            )
        if self.unique_key is not None:
            limits.check_places("unique_key", self.unique_key, self.signature)
        schedules.check(self)
        update_wrapper(self, self.function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    @cached_property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.function)

    @cached_property
    def _fitting(self) -> range:
        """How many arguments fit if all are positional; `signature.bind` tells the same and takes far longer."""
        least = most = 0
        for parameter in self.signature.parameters.values():
            needed = parameter.default is parameter.empty
            if parameter.kind is parameter.VAR_POSITIONAL:
                most = sys.maxsize - 1
            elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                least, most = least + needed, most + 1
            elif parameter.kind is parameter.KEYWORD_ONLY and needed:
                return range(0)
        return range(least, most + 1)

    @cached_property
    def is_coroutine(self) -> bool:
        return inspect.iscoroutinefunction(self.function)

    @cached_property
    def has_terms(self) -> bool:
        """Whether its rows have keys or expire."""
        return (self.limit, self.unique_key, self.expires_after) != (None, None, None)

    @cached_property
    def timeout_seconds(self) -> float | None:
        """`timeout` in seconds."""
        return None if self.timeout is None else seconds("timeout", self.timeout)

    def using(
        self,
        *,
        queue: str | None = None,
        priority: int | None = None,
        run_after: timedelta | datetime | None = None,
        database: str | None = None,
        unique_key: Key | None = None,
        expires_after: float | timedelta | None = None,
    ) -> RegisteredJob[P, R]:
        """The same job with other options, for the calls made through what is returned.

        Args:
            queue: where the job waits; a queue exists by being named.
            priority: higher is claimed first.
            run_after: not before this time, or this long from the enqueue.
            database: the alias in `DJJP["outbox"]` whose transaction, if it has one open, the enqueue
                belongs to; by default the innermost that is open.
            unique_key, expires_after: as `job()` takes them.
        """
        given = {
            "queue": queue,
            "priority": priority,
            "run_after": run_after,
            "database": database,
            "unique_key": unique_key,
            "expires_after": expires_after,
        }
        return replace(self, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]  # each under its own name

    def bind(self, *args: Any, **kwargs: Any) -> BoundJob:
        """A call that is not made yet, its arguments checked and encoded: for `run_many` and pipelines.

        Behind another job of a pipeline the first argument is that one's result, and is left out here.

        Raises:
            TypeError: the arguments do not fit the function, with a first one before them or without.
            EncodeError: an argument that the codec cannot carry; the message names it.
        """
        try:
            if kwargs or len(args) not in self._fitting:
                self.signature.bind(*args, **kwargs)
        except TypeError:
            if not self._fits((None, *args), kwargs):
                raise
            names = lambda: self._positional_names(len(args) + 1)[1:]  # noqa: E731
            return BoundRest(self, codec.encode_arguments(args, kwargs, names))
        arguments = codec.encode_arguments(args, kwargs, partial(self._positional_names, len(args)))
        return BoundJob(self, arguments)

    def bind_alone(self, *args: P.args, **kwargs: P.kwargs) -> BoundJob:
        """`bind` for a step of a pipeline that does not receive the results of those before it."""
        bound = self.bind(*args, **kwargs)
        bound.check()
        return BoundAlone(self, bound.arguments)

    def _fits(self, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError:
            return False
        return True

    def run_later(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle:
        """Enqueue a call and return its handle; raises as `bind` does, and then nothing is written."""
        return self.bind(*args, **kwargs).run_later()

    async def arun_later(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle:
        """`run_later` for coroutines."""
        return await self.bind(*args, **kwargs).arun_later()

    # In a consumer

    #: Whether `ended` is to be called.
    tells = False

    def function_for(self, claimed: Claimed, consumer: str) -> Callable[..., Any]:
        """What to call with the decoded arguments; a task's does more than its function."""
        return self.function

    def ended(self, outcome: Outcome, consumer: str) -> None:
        """Told how each execution ended, on its thread, before that is written; a task sends a signal."""

    def _positional_names(self, count: int) -> Sequence[str]:
        names: list[str] = []
        for parameter in self.signature.parameters.values():
            if parameter.kind is parameter.VAR_POSITIONAL:
                names += [f"{parameter.name}[{i}]" for i in range(count - len(names))]
            elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                names.append(parameter.name)
        return names[:count]


@overload
def job(function: Callable[P, R], /) -> RegisteredJob[P, R]: ...
@overload
def job(
    *,
    name: str | None = None,
    queue: str = "default",
    priority: int = 0,
    max_attempts: int | None = None,
    backoff: Backoff = exponential,
    retry_on: type[BaseException] | tuple[type[BaseException], ...] = Exception,
    timeout: float | timedelta | None = None,
    on_crash: str = "retry",
    limit: Limit | Rate | None = None,
    unique_key: Key | None = None,
    unique_until: str = "finish",
    expires_after: float | timedelta | None = None,
    cron: str | None = None,
    tz: str | None = None,
    every: float | timedelta | None = None,
    catch_up: str = "once",
    schedule_args: Sequence[Any] = (),
    schedule_kwargs: Mapping[str, Any] | None = None,
) -> Callable[[Callable[P, R]], RegisteredJob[P, R]]: ...
def job(
    function: Callable[..., Any] | None = None, /, *, name: str | None = None, **given: Any
) -> Any:
    """Make a function or coroutine function a job: `@job` or `@job(name=...)`.

    Args:
        name: under which the rows of the queue find the function again; its dotted path by default.
            A name of your own lets the function move while its jobs wait.
        queue: where its jobs wait; a queue exists by being named.
        priority: higher is claimed first; −32768 to 32767.
        max_attempts: how many executions may fail before the job does. Without it an error is final,
            and a `Retry` that the job raises is granted each time.
        backoff: how long to wait before the next attempt: seconds, a timedelta, a list of them (the last
            one goes on), or a function of the attempt's number, from 1. By default exponential with
            jitter: 1, 2, 4, 8 … seconds, up to an hour.
        retry_on: the exception class, or classes, that another attempt may mend.
        timeout: how long an attempt may take, in seconds or as a timedelta; None for no limit.
        on_crash: "retry" runs the job again when its consumer dies; "fail" never runs it twice.
        limit: a `Limit`, for how many of its key run at once, or a `Rate`, for how many start in a span.
        unique_key: one live job for each such key; another enqueue returns the first one's handle. In a
            text, `{parameter}` stands for that argument; a function is called with the arguments.
        unique_until: "finish" keeps the key until the job has ended, "start" until it runs.
        expires_after: seconds, or a timedelta, within which the job must have started, counted from its
            enqueue or from its `run_after`; then it is cancelled.
        cron, tz: run by itself at the times of this cron expression, by the clocks of this time zone;
            Django's `TIME_ZONE` by default.
        every: run by itself at each multiple of these seconds, or this timedelta, since 1970 in UTC.
        catch_up: what to do about times at which no consumer ran: "none" leaves them out, "once" runs
            the job once for all of them, "all" once for each.
        schedule_args, schedule_kwargs: the arguments when it runs by itself.

    Raises:
        JobNameTaken: another function has the name.
        ValueError, TypeError: an option is not what it must be.
    """
    if function is None:
        return partial(_register, name=name, **given)
    return _register(function, name=name, **given)


def _register(function: Callable[P, R], *, name: str | None, **given: Any) -> RegisteredJob[P, R]:
    if not isinstance(function, FunctionType):
        raise TypeError(f"@job takes a function or a coroutine function, not {function!r}")
    default = f"{function.__module__}.{function.__qualname__}"
    registered: RegisteredJob[P, R] = RegisteredJob(
        function, default if name is None else name, **given
    )
    registry.add(registered)
    return registered
