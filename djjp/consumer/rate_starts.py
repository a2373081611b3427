"""Start deadlines: a claimed job under a rate must start in time, or not at all.

Its start was counted when it was claimed. A job that starts later than that would count for too short a time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from uuid import UUID

from djjp import logs
from djjp.engine import START_MARGIN, Claimed, ClaimKey

logger = logging.getLogger("djjp.consumer")

#: The most seconds that a job may take from its claim to its start. While a job is that slow, each of its starts
#: counts longer by as much.
LONGEST_MARGIN = 30.0
# A quarter of a margin, and half of the shortest one, is for the time from the last question to the job's code.
_RESERVE = 0.25
# How many times as long as the slowest starts a margin is, so that the rest of it is enough for most starts.
_ENOUGH = 1.6
# What is left of the time of the slowest start with each claim of that job.
_KEPT = 0.5
# The seconds from its claim after which a job does not start, whatever its margin is.
_LATEST = (1 - _RESERVE) * LONGEST_MARGIN
# Seconds between two log lines about jobs that miss even the longest margin.
_LOG_EVERY = 60.0


class _Start(NamedTuple):
    counted_at: float  # when it was counted, on the monotonic clock
    by: float  # the latest time at which the job starts, on the monotonic clock
    until: float  # until when its start counts, on the clock of the queue's database


class StartDeadlines:
    """The counted starts of jobs that have not ended, and how long jobs take from their claim to their start.

    That is learned for each job by its name, also from starts that came too late. Otherwise a job would never
    start behind slow commits, a blocked event loop or hooks of its own that take long.
    """

    def __init__(self) -> None:
        self._starts: dict[ClaimKey, _Start] = {}
        self._slowest: dict[str, float] = {}  # seconds, by the name of the job
        self._late: dict[
            ClaimKey, float
        ] = {}  # seconds, of jobs that were refused and are not released yet
        self._log_at = 0.0

    def margin(self, jobs: Iterable[Claimed]) -> float:
        """Return the seconds that these jobs may take from their claim to their start."""
        slowest = max((self._slowest.get(job.name, 0.0) for job in jobs), default=0.0)
        return min(max(START_MARGIN, _ENOUGH * slowest), LONGEST_MARGIN)

    def add(
        self,
        counted_at: float,
        margin: float,
        jobs: Iterable[Claimed],
        starts: Mapping[UUID, float],
    ) -> None:
        """Add starts that were counted.

        Args:
            counted_at: when, on the monotonic clock.
            margin: the `margin` for which they were counted.
            jobs: the jobs that were admitted.
            starts: until when each of their starts counts, by job.
        """
        by = counted_at + margin - max(START_MARGIN / 2, _RESERVE * margin)
        slowest = self._slowest
        counted = [job for job in jobs if job.id in starts]
        self._starts |= {job.key: _Start(counted_at, by, starts[job.id]) for job in counted}
        for name in {job.name for job in counted if job.name in slowest}:
            slowest[name] *= _KEPT

    def missed(self, job: Claimed) -> bool:
        """Return whether it is too late for a job to start. Called on any thread."""
        if (start := self._starts.get(job.key)) is None:
            return False
        now = time.monotonic()
        seconds = now - start.counted_at
        self._learn(job, seconds)
        if now > start.by:
            self._late[job.key] = seconds
            self._log(job, seconds, now)
            return True
        return False

    def _learn(self, job: Claimed, seconds: float) -> None:
        if seconds > self._slowest.get(job.name, 0.0):
            self._slowest[job.name] = min(seconds, LONGEST_MARGIN / _ENOUGH)

    def _log(self, job: Claimed, seconds: float, now: float) -> None:
        """Log a start for which not even the longest margin would have been enough."""
        if seconds > _LATEST and now >= self._log_at:
            self._log_at = now + _LOG_EVERY
            logger.error(
                "%s %s, under a rate, was not started: %.0f s after its claim is too late; the limit is %g s",
                job.name,
                job.id,
                seconds,
                _LATEST,
                extra=logs.of_job(job),
            )

    def unused(self, released: Iterable[Claimed]) -> list[tuple[UUID, float]]:
        """Return the jobs with counted starts that were given back, and until when each start counts."""
        held = []
        for job in released:
            if job.key in self._starts:
                held.append((job.id, self._starts[job.key]))
                # Once more, because claims of the same job may have come while its instruments were left.
                self._learn(job, self._late.pop(job.key, 0.0))
        return [(id, start.until) for id, start in held]

    def forget(self, jobs: Iterable[Claimed]) -> None:
        """Forget jobs that have ended or were released."""
        if self._starts:
            for job in jobs:
                self._starts.pop(job.key, None)
                self._late.pop(job.key, None)
