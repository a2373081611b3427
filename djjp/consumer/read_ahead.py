"""Read-ahead: how many jobs a consumer claims beyond its free slots, judged by its recent run times.

Claimed jobs that wait in line hide the time a turn takes. But a job in line is a job that no other
consumer can start, so the line is never longer than what is likely to start within `HORIZON`.
"""

from __future__ import annotations

from collections.abc import Iterable

#: Seconds within which a claimed job should start.
HORIZON = 0.05
#: The longest line, however short the jobs are: it bounds a turn's size and what a crash holds up.
LONGEST = 1000
#: How much of the estimate each new run time replaces.
_WEIGHT = 0.1


class ReadAhead:
    """Keeps a moving average of run times."""

    def __init__(self) -> None:
        self._mean: float | None = None

    def learn(self, times: Iterable[float]) -> None:
        """Take more run times into account, in seconds."""
        mean = self._mean
        for seconds in times:
            mean = seconds if mean is None else mean + (seconds - mean) * _WEIGHT
        self._mean = mean

    def overdue(self) -> float:
        """Seconds after which a running job is far longer than the jobs before it."""
        return max(2 * HORIZON, 2 * (self._mean or 0.0))

    def jobs(self, slots: int) -> int:
        """How many jobs are likely to start within the horizon, over this many moving slots."""
        if self._mean is None:
            return 0
        return min(LONGEST, round(slots * HORIZON / max(self._mean, 1e-6)))
