"""Schedules: recurring jobs, declared by `@job(cron=…)` or `@job(every=…)`, or created in the admin.

A `@job` with `cron` or `every` has one schedule, which consumers write as a row. Other schedules are rows
from the admin, for any registered job. A consumer that fires a schedule reads from the row when it is due,
and from the job registered in its own process what runs and with which options: for a row nothing is
imported.
"""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from itertools import islice
from typing import Any

from django.conf import settings

from djjp import codec, engine, recurrence
from djjp.exceptions import JobNotRegistered
from djjp.jobs import BoundJob, JobHandle, RegisteredJob, registry
from djjp.models import CatchUp, Schedule, Source
from djjp.schedules.words import in_words

#: The longest delay, in seconds, with which an occurrence still fires under `catch_up="none"`.
GRACE = 60.0


# From the code


def declared() -> list[Schedule]:
    """Return the schedules of the code that is loaded here, as rows."""
    jobs = [registry.get(name) for name in registry.names()]
    return [_row(job) for job in jobs if job.options.is_scheduled]


def _row(job: RegisteredJob[..., Any]) -> Schedule:
    return Schedule(
        name=job.name,
        job=job.name,
        source=Source.CODE,
        arguments=job.scheduled_call().arguments,
        catch_up=job.options.catch_up,
        **columns(job.options.timing),
    )


def columns(timing: recurrence.Timing) -> dict[str, Any]:
    """Return the columns of a row that hold its recurrence."""
    if isinstance(timing, recurrence.Cron):
        return {"cron": timing.expression, "tz": timing.tz, "every": None}
    return {"cron": "", "tz": "", "every": timedelta(microseconds=timing.interval)}


# From a row


def timing(row: Schedule) -> recurrence.Timing:
    """Return the recurrence of a row; raise ValueError if it has none."""
    return _timing(row.cron, row.tz, row.every)


# A list of thousands of schedules is read again and again, and few of their rows change.
@lru_cache(maxsize=10_000)
def _timing(cron: str, tz: str, every: timedelta | None) -> recurrence.Timing:
    return recurrence.timing(cron or None, tz or None, every, settings.TIME_ZONE)


@lru_cache(maxsize=10_000)
def _first(cron: str, tz: str, every: timedelta | None, fired_until: float) -> float | None:
    return recurrence.first(_timing(cron, tz, every), fired_until)


def call(row: Schedule) -> BoundJob:
    """Return the call that a row makes.

    Raises:
        JobNotRegistered: its job is not registered here.
        ValueError, TypeError: the code no longer has such a schedule, or the arguments do not fit.
    """
    job = registry.find(row.job)
    if job is None:
        raise JobNotRegistered(row.job)
    if row.source == Source.CODE and not is_in_code(row):
        raise ValueError(f"the job {row.job!r} has no schedule in the code any more")
    try:
        args, kwargs = codec.decode_arguments(row.arguments)
    except (
        ValueError
    ) as error:  # its text has some of them, and logs and pages show it to all users
        raise ValueError(f"cannot decode the arguments of the job {row.job!r}") from error
    return job.bind_alone(*args, **kwargs)


def is_in_code(row: Schedule) -> bool:
    """Return whether the code that is loaded here declares a schedule."""
    job = registry.find(row.job)
    return row.source == Source.CODE and job is not None and job.options.is_scheduled


def problem(row: Schedule) -> str | None:
    """Return why this process cannot fire a schedule; None if it can."""
    try:
        timing(row)
        call(row)
    except (LookupError, ValueError, TypeError) as error:
        return str(error)
    return None


def next_occurrence(row: Schedule, fired_until: float | None = None) -> float | None:
    """Return the first occurrence that is not handled, in seconds since the epoch; None if there is none.

    Args:
        fired_until: the time up to which occurrences are handled; None for the row's.
    """
    since = row.fired_until if fired_until is None else fired_until
    return _first(row.cron, row.tz, row.every, since)


def due(row: Schedule, now: float, fired_until: float, most: int) -> list[float]:
    """Return the occurrences whose jobs must be enqueued now.

    Args:
        fired_until: the time up to which occurrences are handled.
        most: the limit on their number.
    """
    if row.catch_up == CatchUp.ALL:
        return recurrence.between(timing(row), fired_until, now, most)
    occurrence = recurrence.latest(timing(row), fired_until, now)
    return [] if occurrence is None else [occurrence]


def fired_until(row: Schedule, started: float, now: float) -> float:
    """Return the time up to which occurrences are handled, for a consumer that has started at a time.

    With `catch_up="none"`, occurrences before this consumer started, or more than `GRACE` late, count as
    handled.
    """
    return (
        row.fired_until
        if row.catch_up != CatchUp.NONE
        else max(row.fired_until, started, now - GRACE)
    )


# For the admin and the commands


def when(row: Schedule) -> str:
    """Return when a row is due, as it is written."""
    return f"{row.cron} {row.tz}" if row.cron else f"every {row.every}"


def words(row: Schedule) -> str:
    """Return when a row is due as a person says it; a row that cannot be due as it is."""
    try:
        return in_words(timing(row))
    except (ValueError, TypeError):
        return when(row)


def following(row: Schedule, now: float, most: int) -> list[float]:
    """Return the next occurrences of a row, whether or not it is enabled; raise ValueError if it has none.

    Args:
        most: the number of occurrences to return at most.
    """
    return list(islice(timing(row).occurrences(max(now, row.fired_until)), most))


def listing() -> list[Schedule]:
    """Return all schedules, by name."""
    return engine.run(lambda engine: engine.schedules.all())


def of_job(name: str, limit: int = 50) -> list[Schedule]:
    """Return the schedules that enqueue the jobs of a name, by name; at most some."""

    def verb(engine: engine.Engine) -> list[Schedule]:
        rows = Schedule.objects.using(engine.db.alias).filter(job=name)
        return list(rows.order_by("name", "pk")[:limit])

    return engine.run(verb)


def run_now(row: Schedule) -> JobHandle:
    """Enqueue a schedule's job at once, beside its occurrences; raise as `call` and `run_later` do."""
    return call(row).run_later()
