"""Start deadlines: a claimed job under a rate must start in time, or not at all.

Its start was counted when it was claimed. A job that starts later than that would count for too short a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from uuid import UUID

from djjp.engine import START_MARGIN, Claimed

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
        self._starts: dict[UUID, _Start] = {}

    def add(self, counted_at: float, starts: Mapping[UUID, float]) -> None:
        """Add starts that were counted.

        Args:
            counted_at: when, on the monotonic clock.
            starts: until when each of them counts, by job.
        """
        # Half of the margin covers the time between this check and the job's own code.
        by = counted_at + self.margin / 2
        self._starts |= {id: _Start(by, until) for id, until in starts.items()}
        self.margin = max(START_MARGIN, 0.9 * self.margin)

    def missed(self, job: Claimed) -> bool:
        """Return whether it is too late for a job to start. Called on any thread."""
        start = self._starts.get(job.id)
        return start is not None and time.monotonic() > start.by

    def unused(self, given_back: Iterable[Claimed]) -> dict[UUID, float]:
        """Return the counted starts of jobs that were given back, and until when each counts."""
        starts = {job.id: self._starts[job.id] for job in given_back if job.id in self._starts}
        if any(start.by < time.monotonic() for start in starts.values()):
            self.margin = min(2 * self.margin, LONGEST_MARGIN)
        return {id: start.until for id, start in starts.items()}

    def forget(self, jobs: Iterable[Claimed]) -> None:
        """Forget jobs that have ended or were given back."""
        if self._starts:
            for job in jobs:
                self._starts.pop(job.id, None)
