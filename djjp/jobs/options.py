"""The options of `@job`: each one's type, default, meaning and validation, in this module alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from functools import cached_property
from types import NoneType
from typing import Any, Literal, TypedDict

from django.conf import settings

from djjp import bounds, call_options, conf, limits, recurrence
from djjp.durations import seconds
from djjp.jobs import backoff
from djjp.jobs.backoff import Backoff, exponential
from djjp.limits import Key, Limit, Rate
from djjp.models import CatchUp, OnCrash

#: The options that make a schedule, and its calls' arguments.
SCHEDULE_OPTIONS = ("cron", "tz", "every", "catch_up", "schedule_args", "schedule_kwargs")


class JobOptionsDict(TypedDict, total=False):
    """The options that `@job` takes, for type checkers: the fields of `JobOptions` that a declaration can set.

    A type checker needs them written out; a test compares them with the fields.
    """

    name: str | None
    queue: str
    priority: int
    max_attempts: int | None
    backoff: Backoff
    retry_on: type[BaseException] | tuple[type[BaseException], ...]
    timeout: float | timedelta | None
    on_crash: Literal["retry", "fail"]
    limit: Limit | Rate | None
    unique_key: Key | None
    unique_until: Literal["finish", "start"]
    expires_after: float | timedelta | None
    tags: Collection[str]
    api: bool
    cron: str | None
    tz: str | None
    every: float | timedelta | None
    catch_up: Literal["none", "once", "all"]
    schedule_args: Sequence[Any]
    schedule_kwargs: Mapping[str, Any] | None


@dataclass(frozen=True, eq=False)
class JobOptions:
    """All options of one job, validated on construction.

    Attributes:
        name: the name under which the rows of the queue find the function again; its dotted path by
            default. With a name of its own, a function can move while its jobs wait.
        queue: the queue of its jobs; a queue exists by being named.
        priority: higher is claimed first; −32768 to 32767.
        run_after: the earliest start, as a datetime, or in seconds or as a timedelta from the enqueue;
            None for at once. Set by `using()`.
        database: the alias in `DJJP["outbox"]` whose transaction, if one is open, an enqueue belongs to;
            None for the innermost open one. Set by `using()`.
        max_attempts: the number of executions that can fail before the job does. Without it an error is
            final, and a `Retry` that the job raises is granted each time.
        backoff: the pause before the next attempt: seconds, a timedelta, a list of them (the last one is
            repeated), or a function of the failed attempt's number, from 1. By default exponential with
            jitter: 1, 2, 4, 8 … seconds, up to an hour.
        retry_on: the exception class, or classes, after which another attempt is made.
        timeout: the longest an attempt can take, in seconds or as a timedelta; None for no limit.
        on_crash: "retry" runs the job again when its consumer dies; "fail" never runs it twice.
        limit: a `Limit` on the number of jobs of a key that run at once, or a `Rate` for the number that
            start within a span of time.
        unique_key: one live job for each such key; another enqueue returns the first one's handle. In a
            text, `{parameter}` stands for that argument; a function is called with the arguments.
        unique_until: "finish" keeps the key until the job has ended, "start" until it runs.
        expires_after: seconds, or a timedelta, within which the job must have started, counted from its
            enqueue or from its `run_after`; after that it is cancelled.
        tags: texts by which its jobs are found: at most 10, of 1 to 100 characters. Those of `using()` are
            added.
        api: whether programs can enqueue it over HTTP.
        call: the options of `using()` for the execution of one call, which its row keeps: `timeout`,
            `max_attempts` and `backoff`. Set by `using()`.
        cron: the times at which the job is enqueued automatically, as a cron expression.
        tz: the time zone whose clocks `cron` follows; Django's `TIME_ZONE` by default.
        every: enqueue the job automatically at each multiple of these seconds, or of this timedelta,
            since 1970 in UTC.
        catch_up: how occurrences are handled that fell due while no consumer ran: "none" skips them, "once"
            runs the job once for all of them, "all" once for each.
        schedule_args: the positional arguments of the calls that `cron` or `every` makes.
        schedule_kwargs: the keyword arguments of these calls.

    Raises:
        ValueError, TypeError: an option has an invalid value; the message names both and what is valid.
    """

    name: str
    queue: str = "default"
    priority: int = 0
    run_after: float | timedelta | datetime | None = None
    database: str | None = None
    max_attempts: int | None = None
    backoff: Backoff = exponential
    retry_on: type[BaseException] | tuple[type[BaseException], ...] = Exception
    timeout: float | timedelta | None = None
    on_crash: Literal["retry", "fail"] = "retry"
    limit: Limit | Rate | None = None
    unique_key: Key | None = None
    unique_until: Literal["finish", "start"] = "finish"
    expires_after: float | timedelta | None = None
    tags: Collection[str] = ()
    api: bool = False
    call: Mapping[str, Any] | None = None
    cron: str | None = None
    tz: str | None = None
    every: float | timedelta | None = None
    catch_up: Literal["none", "once", "all"] = "once"
    schedule_args: Sequence[Any] = ()
    schedule_kwargs: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for option, validate in _VALIDATORS.items():
            validate(option, getattr(self, option))
        _validate_schedule(self)
        object.__setattr__(self, "tags", call_options.united(self.tags))

    def replaced(self, **given: Any) -> JobOptions:
        """Return a copy with other values, of which only these are validated: the others were valid already."""
        for option, value in given.items():
            _VALIDATORS[option](option, value)
        copy = object.__new__(type(self))
        copy.__dict__.update({field: self.__dict__[field] for field in _FIELDS}, **given)
        return copy

    def changes_from(self, other: JobOptions) -> dict[str, Any]:
        """Return the options of this that `other` does not have, by name."""
        ours, theirs = vars(self), vars(other)
        return {field: ours[field] for field in _FIELDS if ours[field] is not theirs[field]}

    @cached_property
    def has_constraints(self) -> bool:
        """True when the rows of its jobs have more columns: a limit, a rate, a unique key, an expiry, options."""
        given = (self.limit, self.unique_key, self.expires_after, self.row_text)
        return given != (None, None, None, None)

    @cached_property
    def row_text(self) -> str | None:
        """The options of one call and the tags, as the text of its row; None if there are none."""
        return call_options.to_text(self.call or {}, [*self.tags])

    @cached_property
    def timeout_seconds(self) -> float | None:
        """`timeout` in seconds."""
        return None if self.timeout is None else seconds("timeout", self.timeout)

    @property
    def retried_exceptions(self) -> tuple[type[BaseException], ...]:
        """`retry_on` as a tuple of exception classes."""
        return _classes(self.retry_on)

    @property
    def is_scheduled(self) -> bool:
        """True when the code declares a schedule for the job."""
        return self.cron is not None or self.every is not None

    @property
    def timing(self) -> recurrence.Timing:
        """Return the times at which the job's schedule is due.

        Raises:
            ValueError, TypeError: `cron`, `tz` and `every` make no schedule.
        """
        return recurrence.timing(self.cron, self.tz, self.every, settings.TIME_ZONE)


_FIELDS = {field.name: field.default for field in fields(JobOptions)}

#: The names of the options that can be given; `call` holds what `using()` was given.
OPTIONS = [field for field in _FIELDS if field != "call"]


# Validation of each option; the order is that of the errors


def _validate_name(option: str, value: object) -> None:
    bounds.require_text(option, value, bounds.LONGEST_NAME)


def _validate_queue(option: str, value: object) -> None:
    bounds.require_text(option, value, bounds.LONGEST_QUEUE)


def _validate_run_after(option: str, value: object) -> None:
    if not isinstance(value, (int, float, timedelta, datetime, NoneType)) or isinstance(
        value, bool
    ):
        raise TypeError(
            f"{option} is {value!r}; it must be seconds or a timedelta from now, or a datetime"
        )
    if value is not None:
        bounds.to_time(option, value, time.time())


def _validate_database(option: str, value: object) -> None:
    if value is not None and value not in conf.outbox():
        raise ValueError(
            f"{option} is {value!r}; it must be an alias in DJJP['outbox'], "
            f"which has {', '.join(map(repr, conf.outbox())) or 'none'}"
        )


def _validate_backoff(option: str, value: Any) -> None:
    backoff.validate_backoff(value)


def _validate_retry_on(option: str, value: object) -> None:
    backoff.validate_retry_on(_classes(value))


def _validate_on_crash(option: str, value: object) -> None:
    if value not in OnCrash.values:
        raise ValueError(f"{option} is {value!r}; it must be 'retry' or 'fail'")


def _validate_api(option: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{option} is {value!r}; it must be True or False")


#: What validates each option of one value. The options of a schedule are validated together.
_VALIDATORS: dict[str, Callable[[str, Any], None]] = {
    "name": _validate_name,
    "queue": _validate_queue,
    "priority": bounds.require_priority,
    "run_after": _validate_run_after,
    "database": _validate_database,
    "max_attempts": call_options.require_max_attempts,
    "backoff": _validate_backoff,
    "retry_on": _validate_retry_on,
    "timeout": call_options.require_timeout,
    "on_crash": _validate_on_crash,
    "limit": limits.validate_limit,
    "unique_key": limits.validate_unique_key,
    "unique_until": limits.validate_unique_until,
    "expires_after": limits.validate_expires_after,
    "tags": call_options.require_tags,
    "api": _validate_api,
    "call": lambda option, value: None,  # its values are those of other options
}


def _validate_schedule(options: JobOptions) -> None:
    if not options.is_scheduled:
        for option in SCHEDULE_OPTIONS:
            if (value := getattr(options, option)) != _FIELDS[option]:
                raise ValueError(
                    f"{option} is {value!r}, but the job has no schedule; give it cron or every"
                )
        return
    _ = options.timing  # raises if the schedule is invalid
    if options.catch_up not in CatchUp.values:
        raise ValueError(f"catch_up is {options.catch_up!r}; it must be 'none', 'once' or 'all'")
    if not isinstance(options.schedule_args, (list, tuple)):
        raise TypeError(f"schedule_args is {options.schedule_args!r}; it must be a list or a tuple")
    if not isinstance(options.schedule_kwargs, (Mapping, NoneType)):
        raise TypeError(f"schedule_kwargs is {options.schedule_kwargs!r}; it must be a dictionary")


def _classes(retry_on: Any) -> tuple[Any, ...]:
    """Return one exception class, or a collection of them, as a tuple."""
    return tuple(retry_on) if isinstance(retry_on, (tuple, list, set, frozenset)) else (retry_on,)
