"""The lag of an outbox: for how long its first row waits for the relay."""

from __future__ import annotations

import time

from djjp.outbox import table

#: Seconds after which a waiting row counts.
LATE = 10.0
#: Seconds for which rows must have counted: one that a long transaction has just committed is relayed at once.
LASTING = 3.0
# Seconds between two measurements while no row counts.
_EVERY = 2.0


class Lag:
    """Measures an outbox on the thread that sweeps it; another thread reads the result.

    Args:
        alias: the database of the outbox.
    """

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self._measure_at = 0.0
        # The wait of the first row, when it was measured, and since when rows have counted: one value, which
        # another thread reads as a whole.
        self._late: tuple[float, float, float] | None = None

    def measure(self) -> None:
        """Measure, if it is due."""
        now = time.monotonic()
        if self._late is None and now < self._measure_at:
            return
        self._measure_at = now + _EVERY
        oldest = table.oldest(self.alias)
        wait = 0.0 if oldest is None else time.time() - oldest
        if wait <= LATE:
            self._late = None
        else:
            self._late = wait, now, now if self._late is None else self._late[2]

    def seconds(self) -> float | None:
        """Return for how long the first row has waited, if rows have waited for too long for a while."""
        late, now = self._late, time.monotonic()
        if late is None or now - late[2] < LASTING:
            return None
        return late[0] + now - late[1]
