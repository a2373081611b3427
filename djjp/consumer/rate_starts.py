"""Starts: jobs under a rate that a consumer has claimed, each of which has to begin in time or not at all."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from uuid import UUID

from djjp.engine import START_MARGIN, Claimed

#: Seconds that a job may take from its claim to its begin, at most.
LONGEST_SLACK = 5.0


class _Start(NamedTuple):
    by: float  # when the job begins at the latest, by the monotonic clock
    until: float  # until when its start counts, as the queue has it


class Starts:
    """What was counted and has not ended.

    Attributes:
        slack: how long a job may take from its claim to its begin. It grows where jobs come too late, for
            behind slow commits none would ever begin.
    """

    def __init__(self) -> None:
        self.slack = START_MARGIN
        self._starts: dict[UUID, _Start] = {}

    def expect(self, began: float, starts: Mapping[UUID, float]) -> None:
        """Note what was counted: when, by the monotonic clock, and until when each counts."""
        # Half of the slack is for what comes between the look at the clock and the job's own code.
        by = began + self.slack / 2
        self._starts |= {id: _Start(by, until) for id, until in starts.items()}
        self.slack = max(START_MARGIN, 0.9 * self.slack)

    def too_late(self, job: Claimed) -> bool:
        """Whether a job must not begin any more; on any thread."""
        start = self._starts.get(job.id)
        return start is not None and time.monotonic() > start.by

    def unused(self, given_back: Iterable[Claimed]) -> dict[UUID, float]:
        """Those of these jobs that were counted, and until when."""
        starts = {job.id: self._starts[job.id] for job in given_back if job.id in self._starts}
        if any(start.by < time.monotonic() for start in starts.values()):
            self.slack = min(2 * self.slack, LONGEST_SLACK)
        return {id: start.until for id, start in starts.items()}

    def forget(self, jobs: Iterable[Claimed]) -> None:
        """These jobs have ended, or were given back."""
        if self._starts:
            for job in jobs:
                self._starts.pop(job.id, None)
