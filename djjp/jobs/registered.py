"""`RegisteredJob`: a function with its options, and how its calls are bound and enqueued.

Everything that can be wrong with a call is found here, before anything is written: a call that does
not fit the function's signature, an argument that the codec cannot carry.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, partial, update_wrapper
from typing import Any, Concatenate, Generic, Self, overload

from djjp import bounds, call_options, codec, limits
from djjp.conf import SMALLEST_PAYLOAD
from djjp.engine import Claimed, Outcome
from djjp.exceptions import EncodeError
from djjp.jobs import functions
from djjp.jobs.backoff import Span
from djjp.jobs.bound import BoundJob
from djjp.jobs.functions import CallSignature
from djjp.jobs.handles import JobHandle
from djjp.jobs.hints import OF_JOB, Hints
from djjp.jobs.options import JobOptions
from djjp.jobs.typevars import P, Q, R, T
from djjp.limits import Key

#: Stands for an option that is not given where None is a value of the option.
KEEP: Any = ...

# The attributes of a job that `dir()` lists beside those of its function.
_SHOWN = ("arun_later", "bind", "bind_alone", "function", "name", "options", "run_later", "using")


@dataclass(eq=False, repr=False)
class RegisteredJob(Hints, Generic[P, R]):
    """A function that can run later; a plain call of it still runs it here and now.

    Attributes:
        function: the plain function or coroutine function.
        options: the options of `@job`, as `using()` may have changed them.
    """

    function: Callable[P, R]
    options: JobOptions

    _words = OF_JOB

    def __post_init__(self) -> None:
        # Attributes of the function must not replace those of the job.
        own = vars(self)
        for name, value in vars(self.function).items():
            if name not in own and not hasattr(type(self), name):
                own[name] = value
        update_wrapper(self, self.function, updated=())
        self._validate_keys()
        if self.options.is_scheduled:
            self._validate_schedule()

    def __repr__(self) -> str:
        return f"<job {self.name}>"

    def __dir__(self) -> list[str]:
        """Return what users need: the attributes of the function, and those that make calls of it."""
        return [*dir(self.function), *_SHOWN]

    def __get__(self, instance: object, owner: type | None = None) -> Self:
        """Return the job itself. It makes `help()` and other tools take a job for the function that it is."""
        return self

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    @property
    def name(self) -> str:
        """The name under which the rows of the queue find the function again."""
        return self.options.name

    @cached_property
    def signature(self) -> CallSignature:
        return functions.signature_of(self.function, self.name)

    @cached_property
    def is_coroutine(self) -> bool:
        return functions.returns_coroutine(self.function)

    def using(
        self,
        *,
        queue: str | None = None,
        priority: int | None = None,
        run_after: float | timedelta | datetime | None = None,
        database: str | None = None,
        unique_key: Key | None = None,
        expires_after: float | timedelta | None = None,
        timeout: float | timedelta | None = KEEP,
        max_attempts: int | None = KEEP,
        backoff: Span | Sequence[Span] | None = None,
        tags: Collection[str] = (),
    ) -> Self:
        """Return the same job with other options, for the calls made through what is returned.

        Args:
            queue: the queue of the job; a queue exists by being named.
            priority: higher is claimed first.
            run_after: the earliest start, as a datetime, or in seconds or as a timedelta from the enqueue.
            database: the alias in `DJJP["outbox"]` whose transaction, if it has one open, the enqueue
                belongs to; by default the innermost that is open.
            unique_key, expires_after: as `job()` takes them.
            timeout, max_attempts: as `job()` takes them; None for no limit.
            backoff: seconds, a timedelta, or a list of them.
            tags: texts by which the job is found, added to those of the job: at most 10 in all, of 1 to
                100 characters.

        Raises:
            ValueError, TypeError: an option has an invalid value.
        """
        given: dict[str, Any] = {
            "queue": queue,
            "priority": priority,
            "run_after": run_after,
            "database": database,
            "unique_key": unique_key,
            "expires_after": expires_after,
            "backoff": backoff,
        }
        changes = {k: v for k, v in given.items() if v is not None}
        changes |= {
            k: v for k, v in (("timeout", timeout), ("max_attempts", max_attempts)) if v is not KEEP
        }
        if call := {k: v for k, v in changes.items() if k in call_options.OF_EXECUTION}:
            changes["call"] = {**(self.options.call or {}), **call_options.as_stored(call)}
        if tags != ():
            call_options.require_tags("tags", tags)
            changes["tags"] = call_options.united(self.options.tags, tags)
        changed = self._with(changes)
        if unique_key is not None:
            limits.validate_placeholders("unique_key", unique_key, self.signature)
        return changed

    def of_row(self, text: str) -> Self:
        """Return the job with the options for one execution that its row keeps as text.

        Raises:
            ValueError, TypeError: the text holds an invalid value.
        """
        given = call_options.from_text(text)
        return self._with({k: v for k, v in given.items() if k in call_options.OF_EXECUTION})

    @overload
    def bind(
        self: RegisteredJob[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> BoundJob[T]: ...
    @overload
    def bind(self, /, *args: P.args, **kwargs: P.kwargs) -> BoundJob[R]: ...
    @overload
    def bind(
        self: RegisteredJob[Concatenate[Any, Q], Coroutine[Any, Any, T]],
        /,
        *args: Q.args,
        **kwargs: Q.kwargs,
    ) -> BoundJob[T]: ...
    @overload
    def bind(
        self: RegisteredJob[Concatenate[Any, Q], R], /, *args: Q.args, **kwargs: Q.kwargs
    ) -> BoundJob[R]: ...
    def bind(self, /, *args: Any, **kwargs: Any) -> BoundJob[Any]:
        """Return the call, its arguments checked and encoded, without enqueueing it: for `run_many` and pipelines.

        Behind another job of a pipeline the first argument is that job's result: omit it here.

        Raises:
            TypeError: the arguments do not fit the function, neither alone nor behind a first argument
                from a pipeline.
            EncodeError: an argument that the codec cannot carry; the message names it.
        """
        missing_first = False
        try:
            if kwargs or len(args) not in self.signature.accepted_counts:
                self.signature.bind(*args, **kwargs)
        except TypeError:
            if not self.signature.fits((None, *args), kwargs):
                raise
            missing_first = True
        names = partial(self.signature.positional_names, len(args), missing_first)
        try:
            arguments = codec.encode_arguments(args, kwargs, names)
            if len(arguments) > SMALLEST_PAYLOAD:
                bounds.require_arguments(arguments, args, kwargs, names)
        except EncodeError as error:
            raise self.signature.named(error) from None
        return BoundJob(self.options, self.signature, arguments, True, missing_first)

    @overload
    def bind_alone(
        self: RegisteredJob[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> BoundJob[T]: ...
    @overload
    def bind_alone(self, /, *args: P.args, **kwargs: P.kwargs) -> BoundJob[R]: ...
    def bind_alone(self, /, *args: Any, **kwargs: Any) -> BoundJob[Any]:
        """`bind` for a step of a pipeline that does not take the results of the jobs before it.

        Raises:
            TypeError: the arguments do not fit the function alone.
            EncodeError: as `bind()`.
        """
        bound = self.bind(*args, **kwargs)
        bound.validate()
        bound.takes_input = False
        return bound

    @overload
    def run_later(
        self: RegisteredJob[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> JobHandle[T]: ...
    @overload
    def run_later(self, /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]: ...
    def run_later(self, /, *args: Any, **kwargs: Any) -> JobHandle[Any]:
        """Enqueue a call and return its handle; if another job holds its unique key, the handle of that job.

        Raises:
            TypeError: the arguments do not fit the function, or no key can be built from them.
            EncodeError: an argument that the codec cannot carry; the message names it.
            ValueError: a key is empty or longer than 200 characters.
            QueueUnavailable: the queue's database does not answer, and there is no outbox for the job.
        """
        return self.bind(*args, **kwargs).run_later()

    @overload
    async def arun_later(
        self: RegisteredJob[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> JobHandle[T]: ...
    @overload
    async def arun_later(self, /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]: ...
    async def arun_later(self, /, *args: Any, **kwargs: Any) -> JobHandle[Any]:
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
        """Return the callable for the decoded arguments: the function, or for a task a wrapper of it."""
        return self.function

    def on_finished(self, outcome: Outcome, consumer: str) -> None:
        """Receive the outcome of each execution, on its thread, before it is written; a task sends a signal."""

    # Internals

    def _with(self, changes: dict[str, Any]) -> Self:
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
