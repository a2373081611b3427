"""Schedules: jobs that run by themselves, as the code declares them or as rows of the queue say it.

A `@job` with `cron` or `every` has one schedule; consumers write it down as a row. Others are rows that
people make in the admin, for any registered job. Whoever fires one takes what is due from the row, and
what runs, with its options, from what is registered here: for a row nothing is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from types import NoneType
from typing import TYPE_CHECKING, Any

from django.conf import settings

from djjp import codec, engine, recurrence
from djjp.exceptions import EncodeError, JobNotRegistered
from djjp.jobs import registry
from djjp.models import CatchUp, Schedule, Source

if TYPE_CHECKING:
    from djjp.jobs import JobHandle, RegisteredJob
    from djjp.jobs.bound import BoundJob

#: How late a slot may be fired that is not to be caught up with, in seconds.
GRACE = 60.0

#: The options of `@job` that say when it runs by itself, and with what.
OPTIONS = ("cron", "tz", "every", "catch_up", "schedule_args", "schedule_kwargs")
_USUAL = {"tz": None, "catch_up": CatchUp.ONCE, "schedule_args": (), "schedule_kwargs": None}


# From the code


def check(job: RegisteredJob[..., Any]) -> None:
    """Check the options of a job that say when it runs by itself.

    Raises:
        ValueError, TypeError: one is not what it must be, or the schedule's arguments do not fit the
            function; the message names it and its value.
    """
    if not is_scheduled(job):
        for option, usual in _USUAL.items():
            if (value := getattr(job, option)) != usual:
                raise ValueError(
                    f"{option} is {value!r}, but the job has no schedule; give it cron or every"
                )
        return
    recurrence.timing(job.cron, job.tz, job.every, settings.TIME_ZONE)
    if job.catch_up not in CatchUp.values:
        raise ValueError(f"catch_up is {job.catch_up!r}; it must be 'none', 'once' or 'all'")
    if not isinstance(job.schedule_args, (list, tuple)):
        raise TypeError(f"schedule_args is {job.schedule_args!r}; it must be a list or a tuple")
    if not isinstance(job.schedule_kwargs, (Mapping, NoneType)):
        raise TypeError(f"schedule_kwargs is {job.schedule_kwargs!r}; it must be a dictionary")
    try:
        _bound(job)
    except EncodeError:
        raise
    except TypeError as error:
        raise TypeError(
            f"the arguments of the schedule do not fit ({error}); schedule_args and schedule_kwargs "
            "are what the job is called with"
        ) from None


def is_scheduled(job: RegisteredJob[..., Any]) -> bool:
    """Whether the code says when the job runs by itself."""
    return (job.cron, job.every) != (None, None)


def declared() -> list[Schedule]:
    """The schedules of the code that is loaded here, as rows."""
    jobs = [registry.get(name) for name in registry.names()]
    return [_row(job) for job in jobs if is_scheduled(job)]


def _bound(job: RegisteredJob[..., Any]) -> BoundJob:
    return job.bind_alone(*job.schedule_args, **(job.schedule_kwargs or {}))


def _row(job: RegisteredJob[..., Any]) -> Schedule:
    return Schedule(
        name=job.name,
        job=job.name,
        source=Source.CODE,
        arguments=_bound(job).arguments,
        catch_up=job.catch_up,
        **columns(recurrence.timing(job.cron, job.tz, job.every, settings.TIME_ZONE)),
    )


def columns(timing: recurrence.Timing) -> dict[str, Any]:
    """What a row says of its slots."""
    if isinstance(timing, recurrence.Cron):
        return {"cron": timing.expression, "tz": timing.tz, "every": None}
    return {"cron": "", "tz": "", "every": timedelta(microseconds=timing.interval)}


# From a row


def timing(row: Schedule) -> recurrence.Timing:
    """When a row is due; raises ValueError where it says no such thing."""
    return _timing(row.cron, row.tz, row.every)


@lru_cache(maxsize=1000)
def _timing(cron: str, tz: str, every: timedelta | None) -> recurrence.Timing:
    return recurrence.timing(cron or None, tz or None, every, settings.TIME_ZONE)


def call(row: Schedule) -> BoundJob:
    """The call that a row stands for.

    Raises:
        JobNotRegistered: its job is not registered here.
        ValueError, TypeError: the code has no such schedule any more, or the arguments do not fit.
    """
    job = registry.find(row.job)
    if job is None:
        raise JobNotRegistered(row.job)
    if row.source == Source.CODE and not is_in_code(row):
        raise ValueError(f"the job {row.job!r} has no schedule in the code any more")
    args, kwargs = codec.decode_arguments(row.arguments)
    return job.bind_alone(*args, **kwargs)


def is_in_code(row: Schedule) -> bool:
    """Whether the code that is loaded here declares a schedule."""
    job = registry.find(row.job)
    return row.source == Source.CODE and job is not None and is_scheduled(job)


def problem(row: Schedule) -> str | None:
    """Why this process cannot fire a schedule; None where it can."""
    try:
        timing(row)
        call(row)
    except (LookupError, ValueError, TypeError) as error:
        return str(error)
    return None


def next_slot(row: Schedule, settled: float | None = None) -> float | None:
    """The first slot that is not settled, by the row or by what is given; seconds since the epoch."""
    return recurrence.first(timing(row), row.fired_until if settled is None else settled)


def due(row: Schedule, now: float, settled: float, most: int) -> list[float]:
    """The slots that are to have their job now.

    Args:
        settled: up to when they are done with.
        most: how many at once.
    """
    if row.catch_up == CatchUp.ALL:
        return recurrence.between(timing(row), settled, now, most)
    slot = recurrence.latest(timing(row), settled, now)
    return [] if slot is None else [slot]


def settled_for(row: Schedule, began: float, now: float) -> float:
    """Up to when a row's slots are done with, for a consumer that began to look at a time.

    What is not to be caught up with may be due only since then, and not be late.
    """
    return (
        row.fired_until
        if row.catch_up != CatchUp.NONE
        else max(row.fired_until, began, now - GRACE)
    )


# For people


def when(row: Schedule) -> str:
    """When a row is due, in words."""
    return f"{row.cron} {row.tz}" if row.cron else f"every {row.every}"


def listing() -> list[Schedule]:
    """All schedules, by name."""
    return engine.run(lambda engine: engine.schedules.all())


def run_now(row: Schedule) -> JobHandle:
    """Enqueue a schedule's job at once, beside its slots; raises as `call` does."""
    return call(row).run_later()
