"""The log of jobs: one record for each attempt that has ended.

It is made on the job's own thread or task, and in its context, before the outcome is written: handlers such as
Sentry's find there what the job has set. A failure for good is an ERROR with the exception in `exc_info`, a
failure before another attempt a WARNING, any other end an INFO. Nothing is formatted when the level is off.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from threading import current_thread, main_thread

from djjp import logs
from djjp.consumer.failures import own_frames
from djjp.engine import Claimed, Outcome
from djjp.models import FINISHED, State

logger = logging.getLogger(logs.JOBS)

#: The number of dropped outcomes that are logged one by one.
_DROPPED_SHOWN = 10


def shows_success() -> bool:
    """Return whether the ends of jobs that did not fail are logged."""
    return logger.isEnabledFor(logging.INFO)


def log_end(outcome: Outcome, max_attempts: int | None, error: BaseException | None = None) -> None:
    """Log how an attempt ended.

    Nothing that a handler of the project raises escapes: the job has ended as it has.

    Args:
        max_attempts: of the job; None if it has no such bound.
        error: the exception that ended the attempt.
    """
    failed = outcome.failure is not None
    level = logging.INFO
    if failed:
        level = logging.ERROR if outcome.state in FINISHED else logging.WARNING
    if not logger.isEnabledFor(level):
        return
    with suppress(BaseException):
        if failed:
            _log_failure(level, outcome, max_attempts, error)
        else:
            _log_other(outcome)


def is_interrupt(error: BaseException | None) -> bool:
    """Return whether Ctrl-C has ended a job of `drain()`, which then has not failed, but is released."""
    return isinstance(error, KeyboardInterrupt) and current_thread() is main_thread()


def log_dropped(jobs: Sequence[Claimed]) -> None:
    """Log that outcomes are dropped, because other consumers have taken these jobs over."""
    text = "%s %s is no longer ours; its outcome is dropped"
    for job in jobs[:_DROPPED_SHOWN]:
        logger.warning(text, job.name, job.id, extra=logs.of_job(job))
    if (more := len(jobs) - _DROPPED_SHOWN) > 0:
        logger.warning("%d more jobs are no longer ours; their outcomes are dropped", more)


def _log_failure(
    level: int, outcome: Outcome, max_attempts: int | None, error: BaseException | None
) -> None:
    job, failure = outcome.claimed, outcome.failure
    assert failure is not None  # noqa: S101  (the caller's condition)
    number = f"attempt {job.attempt - job.rescues}"
    if max_attempts is not None:
        number += f" of {max_attempts}"
    if level == logging.WARNING:
        end = f"{number} failed, again {_pause(outcome)}"
    elif max_attempts == 1:
        end = "failed"
    else:
        end = f"failed for good, {number}"
    logger.log(
        level,
        "%s %s %s: %s: %s",
        job.name,
        job.id,
        end,
        failure.exception_class,
        failure.message,
        extra=logs.of_job(job),
        exc_info=(type(error), error, own_frames(error))
        if error is not None and level == logging.ERROR
        else None,
    )


def _log_other(outcome: Outcome) -> None:
    job, state = outcome.claimed, outcome.state
    end = "was cancelled" if state == State.CANCELLED else state.value
    if outcome.reason:
        end += f" ({outcome.reason})"
    waited = job.waited(outcome.started_at)
    before = "" if waited is None else f"waited {_spell(waited)}, "
    ran = _spell(outcome.finished_at - outcome.started_at)
    logger.info("%s %s %s: %sran %s", job.name, job.id, end, before, ran, extra=logs.of_job(job))


def _pause(outcome: Outcome) -> str:
    if outcome.run_after is None:
        return "at once"
    return f"in {_spell(outcome.run_after - outcome.finished_at)}"


def _spell(seconds: float) -> str:
    """Return a duration as text: 3 ms, 8 s, 12.5 s, 3600 s."""
    if seconds < 0.9995:
        return f"{max(0.0, seconds) * 1000:.3g} ms"
    return f"{round(seconds, 1):g} s" if seconds < 100 else f"{seconds:.0f} s"
