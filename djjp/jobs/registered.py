"""`RegisteredJob`: a function with its options, and how its calls are bound and enqueued.

Everything that can be wrong with a call is found here, before anything is written: a call that does
not fit the function's signature, an argument that the codec cannot carry.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, partial, update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar

from djjp import codec, limits
from djjp.engine import Claimed, Outcome
from djjp.exceptions import EncodeError
from djjp.jobs.bound import BoundJob
from djjp.jobs.handles import JobHandle
from djjp.jobs.options import JobOptions
from djjp.limits import Key

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(eq=False)
class RegisteredJob(Generic[P, R]):
    """A function that can run later; a plain call of it still runs it here and now.

    Attributes:
        function: the plain function or coroutine function.
        options: the options of `@job`, as `using()` may have changed them.
    """

    function: Callable[P, R]
    options: JobOptions

    def __post_init__(self) -> None:
        # What the function has in its own namespace must not stand in for what a job has.
        own = dict(vars(self))
        update_wrapper(self, self.function)
        vars(self).update(own)
        self._validate_keys()
        if self.options.is_scheduled:
            self._validate_schedule()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    @property
    def name(self) -> str:
        """The name under which the rows of the queue find the function again."""
        return self.options.name

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
        database: str | None = None,
        unique_key: Key | None = None,
        expires_after: float | timedelta | None = None,
    ) -> RegisteredJob[P, R]:
        """Return the same job with other options, for the calls made through what is returned.

        Args:
            queue: the queue of the job; a queue exists by being named.
            priority: higher is claimed first.
            run_after: the earliest start, as a datetime or as a timedelta from the enqueue.
            database: the alias in `DJJP["outbox"]` whose transaction, if it has one open, the enqueue
                belongs to; by default the innermost that is open.
            unique_key, expires_after: as `job()` takes them.

        Raises:
            ValueError, TypeError: an option is not what it must be.
        """
        given = {
            "queue": queue,
            "priority": priority,
            "run_after": run_after,
            "database": database,
            "unique_key": unique_key,
            "expires_after": expires_after,
        }
        changed = self._with({k: v for k, v in given.items() if v is not None})
        if unique_key is not None:
            limits.validate_placeholders("unique_key", unique_key, self.signature)
        return changed

    def bind(self, *args: Any, **kwargs: Any) -> BoundJob:
        """Return the call, its arguments checked and encoded, without enqueueing it: for `run_many` and pipelines.

        Behind another job of a pipeline the first argument is that job's result, and is left out here.

        Raises:
            TypeError: the arguments do not fit the function, neither as they are nor with a first one
                before them.
            EncodeError: an argument that the codec cannot carry; the message names it.
        """
        try:
            if kwargs or len(args) not in self._accepted_counts:
                self.signature.bind(*args, **kwargs)
        except TypeError:
            if not self._fits((None, *args), kwargs):
                raise
            names = lambda: self._positional_names(len(args) + 1)[1:]  # noqa: E731  (of this call alone)
            arguments = codec.encode_arguments(args, kwargs, names)
            return BoundJob(self.options, self.signature, arguments, missing_first=True)
        arguments = codec.encode_arguments(args, kwargs, partial(self._positional_names, len(args)))
        return BoundJob(self.options, self.signature, arguments)

    def bind_alone(self, *args: P.args, **kwargs: P.kwargs) -> BoundJob:
        """`bind` for a step of a pipeline that does not take the results of the jobs before it.

        Raises:
            TypeError, EncodeError: as `bind`, and without a first argument before the others.
        """
        bound = self.bind(*args, **kwargs)
        bound.validate()
        bound.takes_input = False
        return bound

    def run_later(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle:
        """Enqueue a call and return its handle: of the job that has its unique key, if another one has.

        Raises:
            TypeError: the arguments do not fit the function, or a key cannot be made of them.
            EncodeError: an argument that the codec cannot carry; the message names it.
            ValueError: a key is empty or longer than 200 characters.
            QueueUnavailable: the queue's database does not answer, and there is no outbox for the job.
        """
        return self.bind(*args, **kwargs).run_later()

    async def arun_later(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle:
        """`run_later` for coroutines."""
        return await self.bind(*args, **kwargs).arun_later()

    def scheduled_call(self) -> BoundJob:
        """Return the call that the job's schedule in the code makes."""
        options = self.options
        return self.bind_alone(*options.schedule_args, **(options.schedule_kwargs or {}))

    # In a consumer

    #: Whether `on_finished` must be called.
    wants_outcome = False

    def callable_for(self, claimed: Claimed, consumer: str) -> Callable[..., Any]:
        """Return what to call with the decoded arguments; a task's does more than its function."""
        return self.function

    def on_finished(self, outcome: Outcome, consumer: str) -> None:
        """Take the outcome of each execution, on its thread, before it is written; a task sends a signal."""

    # Its own

    def _with(self, changes: dict[str, Any]) -> RegisteredJob[P, R]:
        """Return a light copy: only the changed options are validated, and the signature is kept."""
        changed = object.__new__(type(self))
        vars(changed).update(vars(self), options=self.options.replaced(**changes))
        return changed

    def _validate_keys(self) -> None:
        limit, unique_key = self.options.limit, self.options.unique_key
        if limit is not None:
            option = f"the key of a {type(limit).__name__}"
            limits.validate_placeholders(option, limit.key, self.signature)
        if unique_key is not None:
            limits.validate_placeholders("unique_key", unique_key, self.signature)

    def _validate_schedule(self) -> None:
        try:
            self.scheduled_call()
        except EncodeError:
            raise
        except TypeError as error:
            raise TypeError(
                f"the arguments of the schedule do not fit ({error}); schedule_args and schedule_kwargs "
                "are what the job is called with"
            ) from None

    @cached_property
    def _accepted_counts(self) -> range:
        """The numbers of arguments that fit if all are positional; `signature.bind` takes far longer."""
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

    def _fits(self, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError:
            return False
        return True

    def _positional_names(self, count: int) -> Sequence[str]:
        names: list[str] = []
        for parameter in self.signature.parameters.values():
            if parameter.kind is parameter.VAR_POSITIONAL:
                names += [f"{parameter.name}[{i}]" for i in range(count - len(names))]
            elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                names.append(parameter.name)
        return names[:count]
