"""Start deadlines: a claimed job under a rate must start in time, or not at all.

Its start was counted when it was claimed. A job that starts later than that would count for too short a time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from uuid import UUID

from djjp.engine import START_MARGIN, Claimed, ClaimKey

logger = logging.getLogger("djjp.consumer")

#: The most seconds that a job may take from its claim to its start. While a consumer is that slow, each start
#: counts longer by as much.
LONGEST_MARGIN = 30.0
# How many times as long as the slowest starts a margin is at least, so that half of it is enough for most starts.
_ENOUGH = 2.5
# Seconds between two log lines about jobs that miss even that.
_LOG_EVERY = 60.0


class _Start(NamedTuple):
    counted_at: float  # when it was counted, on the monotonic clock
    by: float  # the latest time at which the job starts, on the monotonic clock
    until: float  # until when its start counts, on the clock of the queue's database


class StartDeadlines:
    """The counted starts of jobs that have not ended.

    Attributes:
        margin: seconds that a job may take from its claim to its start. It grows when jobs miss their
            deadlines, because otherwise none would ever start behind slow commits. It shrinks again to what the
            slowest of the last starts need.
    """

    def __init__(self) -> None:
        self.margin = START_MARGIN
        # Seconds that starts have taken: the slowest of the last that were in time, and of those refused since.
        self._slowest = self._late = 0.0
        self._log_at = 0.0
        self._starts: dict[ClaimKey, _Start] = {}

    def add(self, counted_at: float, jobs: Iterable[Claimed], starts: Mapping[UUID, float]) -> None:
        """Add starts that were counted.

        Args:
            counted_at: when, on the monotonic clock.
            jobs: the jobs that were admitted.
            starts: until when each of their starts counts, by job.
        """
        # Half of the margin covers the time between this check and the job's own code.
        by = counted_at + self.margin / 2
        self._starts |= {
            job.key: _Start(counted_at, by, starts[job.id]) for job in jobs if job.id in starts
        }
        self._slowest *= 0.9
        shrunk = max(START_MARGIN, 0.9 * self.margin, _ENOUGH * self._slowest)
        self.margin = min(shrunk, LONGEST_MARGIN)

    def missed(self, job: Claimed) -> bool:
        """Return whether it is too late for a job to start. Called on any thread."""
        if (start := self._starts.get(job.key)) is None:
            return False
        now = time.monotonic()
        if now > start.by:
            self._late = max(self._late, now - start.counted_at)
            return True
        self._slowest = max(self._slowest, now - start.counted_at)
        return False

    def unused(self, released: Iterable[Claimed]) -> list[tuple[UUID, float]]:
        """Return the jobs with counted starts that were given back, and until when each start counts."""
        if self._late:
            late, self._late = self._late, 0.0
            self.margin = min(2 * self.margin, LONGEST_MARGIN)
            self._log(late)
        held = [(job.id, self._starts[job.key]) for job in released if job.key in self._starts]
        return [(id, start.until) for id, start in held]

    def _log(self, late: float) -> None:
        """Log a start for which not even the longest margin would have been enough."""
        now = time.monotonic()
        if late > LONGEST_MARGIN / 2 and now >= self._log_at:
            self._log_at = now + _LOG_EVERY
            text = "a job under a rate was not started: %.0f s after its claim is too late; the limit is %g s"
            logger.error(text, late, LONGEST_MARGIN / 2)

    def forget(self, jobs: Iterable[Claimed]) -> None:
        """Forget jobs that have ended or were released."""
        if self._starts:
            for job in jobs:
                self._starts.pop(job.key, None)
