"""Durations that one process measures, so that no two clocks have to agree."""

from __future__ import annotations

import time


class Stopwatch:
    """Measures a duration by two clocks, so that neither a suspended machine nor a changed clock distorts it."""

    def __init__(self) -> None:
        self._started = time.time(), time.monotonic()

    def at_most(self) -> float:
        """Return the seconds that may have passed."""
        return max(self._elapsed())

    def at_least(self) -> float:
        """Return the seconds that have certainly passed."""
        return min(self._elapsed())

    def _elapsed(self) -> tuple[float, float]:
        wall, steady = self._started
        return time.time() - wall, time.monotonic() - steady
