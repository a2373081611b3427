"""Start deadlines: a claimed job under a rate must start in time, or not at all.

Its start was counted when it was claimed. A job that starts later than that would count for too short a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from uuid import UUID

from djjp.engine import START_MARGIN, Claimed, ClaimKey

#: The most seconds that a job may take from its claim to its start.
LONGEST_MARGIN = 5.0


class _Start(NamedTuple):
    by: float  # the latest time at which the job starts, on the monotonic clock
    until: float  # until when its start counts, on the clock of the queue's database


class StartDeadlines:
    """The counted starts of jobs that have not ended.

    Attributes:
        margin: seconds that a job may take from its claim to its start. It grows when jobs miss their
            deadlines, because otherwise none would ever start behind slow commits.
    """

    def __init__(self) -> None:
        self.margin = START_MARGIN
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
        self._starts |= {job.key: _Start(by, starts[job.id]) for job in jobs if job.id in starts}
        self.margin = max(START_MARGIN, 0.9 * self.margin)

    def missed(self, job: Claimed) -> bool:
        """Return whether it is too late for a job to start. Called on any thread."""
        start = self._starts.get(job.key)
        return start is not None and time.monotonic() > start.by

    def unused(self, released: Iterable[Claimed]) -> list[tuple[UUID, float]]:
        """Return the jobs with counted starts that were given back, and until when each start counts."""
        starts = [(job.id, self._starts[job.key]) for job in released if job.key in self._starts]
        if any(start.by < time.monotonic() for _, start in starts):
            self.margin = min(2 * self.margin, LONGEST_MARGIN)
        return [(id, start.until) for id, start in starts]

    def forget(self, jobs: Iterable[Claimed]) -> None:
        """Forget jobs that have ended or were released."""
        if self._starts:
            for job in jobs:
                self._starts.pop(job.key, None)
