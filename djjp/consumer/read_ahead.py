"""Read-ahead: the number of jobs that a consumer claims beyond its free slots, from its recent run times.

Claimed jobs that wait for a slot hide the time that a turn takes. But no other consumer can start these
waiting jobs, so there are never more of them than are likely to start within `START_WITHIN`.
"""

from __future__ import annotations

from collections.abc import Iterable

#: Seconds within which a claimed job should start.
START_WITHIN = 0.05
#: The most waiting jobs, however short they are: it bounds the size of a turn and the jobs that a crash delays.
LONGEST = 1000
#: How much of the estimate each new run time replaces.
_WEIGHT = 0.1
#: The last run times of a turn, which make up 99.5 % of the estimate, however many came before.
COUNTED = 50


class ReadAhead:
    """A moving average of run times, and the read-ahead that follows from it."""

    def __init__(self) -> None:
        self._mean: float | None = None

    def observe(self, times: Iterable[float]) -> None:
        """Add run times, in seconds, to the average."""
        mean = self._mean
        for seconds in times:
            mean = seconds if mean is None else mean + (seconds - mean) * _WEIGHT
        self._mean = mean

    def stall_threshold(self) -> float:
        """Return the seconds after which a running job takes far longer than the jobs before it."""
        return max(2 * START_WITHIN, 2 * (self._mean or 0.0))

    def size(self, slots: int) -> int:
        """Return the number of jobs likely to start within `START_WITHIN`, on this number of unstalled slots."""
        if self._mean is None:
            return 0
        return min(LONGEST, round(slots * START_WITHIN / max(self._mean, 1e-6)))
