"""Incidents: the chore by which one consumer at a time detects what is wrong with the queue.

All consumers report what only they can notice. The first one that sends heartbeats, in the order of names,
searches the tables: that needs no lock and no row, and two consumers that search do no harm.

After a pause of this process, or of the queue's database, a consumer waits until others had the time to come back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from django.db import connections

from djjp.engine import Engine
from djjp.engine.incidents import Found
from djjp.monitoring import detection

#: Seconds between two searches.
SEARCH_EVERY = 5.0
#: Seconds without a search after which this process was paused.
PAUSED = 30.0


class IncidentSearch:
    """Detects incidents on behalf of one consumer.

    Args:
        observe: returns what this consumer has noticed: see `Observations`.
        leads: returns whether this consumer is the one that searches.
        refused: returns why this consumer could not fire schedules that were due, by their numbers.
        reconnect: seconds within which a living consumer is back after an outage.
    """

    def __init__(
        self,
        engine: Engine,
        observe: Callable[[], list[Found]],
        leads: Callable[[], bool],
        refused: Callable[[], Mapping[int, str]],
        *,
        reconnect: float,
    ) -> None:
        self._engine = engine
        self._observe = observe
        self._leads = leads
        self._refused = refused
        self._reconnect = reconnect
        self._detector = detection.IncidentDetector(beside)
        self._clocks = _clocks()
        #: When the next search is due, on the monotonic clock.
        self.due_at = time.monotonic() + SEARCH_EVERY

    def pause(self) -> None:
        """Search for nothing before other consumers had the time to come back."""
        self._detector.forget()
        self._clocks = _clocks()
        self.due_at = time.monotonic() + self._reconnect + SEARCH_EVERY

    def work(self) -> None:
        """Search, or report."""
        before, self._clocks = self._clocks, _clocks()
        self.due_at = time.monotonic() + SEARCH_EVERY
        if any(now - then > PAUSED for then, now in zip(before, self._clocks, strict=True)):
            self.pause()
            return
        noticed = self._observe()
        if self._leads():
            self._detector.search(self._engine, noticed, self._refused())
        else:
            self._detector.forget()
            detection.report(self._engine, noticed, beside)


def _clocks() -> tuple[float, float]:
    """Return the times of two clocks: one stands still while the machine sleeps, and the other can be set."""
    return time.monotonic(), time.time()


def beside(send: Callable[[], None]) -> None:
    """Call the receivers of signals on a thread of their own: a slow one must not delay heartbeats and turns."""
    start_beside(send)


def start_beside(send: Callable[[], None]) -> threading.Thread | None:
    """Do `beside`, and return the thread; None if the system refuses one, and the receivers were called here."""

    def work() -> None:
        try:
            send()
        finally:
            connections.close_all()

    thread = threading.Thread(target=work, name="djjp-signals", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the system refuses one
        send()
        return None
    return thread
