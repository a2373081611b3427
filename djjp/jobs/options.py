"""Options of `@job`: what each may be, said in one place."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from djjp import conf, limits
from djjp.durations import seconds
from djjp.jobs.retries import check_backoff, check_retry_on
from djjp.models import OnCrash

_MAX_NAME, _MAX_QUEUE = 200, 100
_PRIORITIES = range(-32768, 32768)


def check(job: Any) -> None:
    """Check the options of a job.

    Raises:
        ValueError, TypeError: an option is not what it must be; the message names it and its value.
    """
    _text("name", job.name, _MAX_NAME)
    _text("queue", job.queue, _MAX_QUEUE)
    if type(job.priority) is not int or job.priority not in _PRIORITIES:
        raise ValueError(
            f"priority is {job.priority!r}; it must be a whole number from "
            f"{_PRIORITIES[0]} to {_PRIORITIES[-1]}"
        )
    if not isinstance(job.run_after, (timedelta, datetime, type(None))):
        raise TypeError(
            f"run_after is {job.run_after!r}; it must be a timedelta from now or a datetime"
        )
    if job.database is not None and job.database not in conf.outbox():
        raise ValueError(
            f"database is {job.database!r}; it must be an alias in DJJP['outbox'], "
            f"which has {', '.join(map(repr, conf.outbox())) or 'none'}"
        )
    most = job.max_attempts
    if most is not None and (type(most) is not int or most < 1):
        raise ValueError(f"max_attempts is {most!r}; it must be a whole number, 1 or more")
    check_backoff(job.backoff)
    check_retry_on(classes(job.retry_on))
    if job.timeout is not None and not seconds("timeout", job.timeout) > 0:
        raise ValueError(f"timeout is {job.timeout!r}; it must be above 0, or None for no limit")
    if job.on_crash not in OnCrash.values:
        raise ValueError(f"on_crash is {job.on_crash!r}; it must be 'retry' or 'fail'")
    limits.check(job.limit, job.unique_key, job.unique_until, job.expires_after)


def classes(retry_on: Any) -> tuple[Any, ...]:
    """One exception class, or some, as a tuple."""
    return tuple(retry_on) if isinstance(retry_on, (tuple, list, set, frozenset)) else (retry_on,)


def _text(option: str, value: object, longest: int) -> None:
    if not isinstance(value, str) or not 1 <= len(value) <= longest:
        raise ValueError(f"{option} is {value!r}; it must be a text of 1 to {longest} characters")
