"""Retries: whether an attempt that failed is followed by another one, and after how long."""

from __future__ import annotations

import logging
from typing import Any

from djjp import durations, logs
from djjp.engine import Claimed
from djjp.exceptions import JobTimedOut, QueueUnavailable, Retry
from djjp.jobs import RegisteredJob, backoff
from djjp.models import Flag

logger = logging.getLogger("djjp.consumer")


def bound(job: RegisteredJob[..., Any] | None, error: BaseException) -> int | None:
    """Return the number of attempts that a job has after this error; None if a `Retry` has no bound."""
    given = None if job is None else job.options.max_attempts
    return given if given is not None or isinstance(error, Retry) else 1


def pause(
    job: RegisteredJob[..., Any] | None, claimed: Claimed, error: BaseException
) -> float | None:
    """Return the seconds until the next attempt; None if there is none.

    Args:
        job: the registered job; None if it runs no function, or none that is known here.
        claimed: the attempt that failed.
        error: what it raised.
    """
    number, most = claimed.attempt - claimed.rescues, bound(job, error)
    if job is None:
        expands = claimed.flags & Flag.EXPANSION and isinstance(error, QueueUnavailable)
        return backoff.exponential(number) if expands else None
    if most is not None and number >= most:
        return None
    if not isinstance(error, (*job.options.retried_exceptions, JobTimedOut, Retry)):
        return None
    try:
        if isinstance(error, Retry) and error.after is not None:
            return durations.seconds("after", error.after)
        return backoff.pause(job.options.backoff, number)
    except BaseException:
        logger.exception(
            "backoff of job %s raised or returned no duration; using the default backoff",
            job.name,
            extra=logs.of_job(claimed),
        )
        return backoff.exponential(number)
