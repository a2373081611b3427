"""The scheduler: each consumer fires due schedules, for all queues; the database decides which was first.

It remembers when the next occurrence is due. It reads the schedules then, and every few seconds in case
somebody changed them. A schedule whose job is not registered in this process is left to others.
"""

from __future__ import annotations

import logging
import time
from math import inf

from djjp import schedules
from djjp.engine import Engine, NewJob
from djjp.models import Schedule

logger = logging.getLogger("djjp.consumer")

#: Seconds between two reads of the schedules.
READ_EVERY = 3.0
#: The most occurrences of a schedule that are caught up with in one transaction.
BATCH = 100


class Scheduler:
    """Fires schedules on behalf of one consumer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._declared = False
        self._began = time.time()
        self._read_at = 0.0
        self._next = inf
        self._skipped: dict[int, str] = {}  # the problem logged for each schedule left to others

    def due(self) -> float:
        """Return the seconds until there is something to do."""
        return min(self._read_at - time.monotonic(), self._next - time.time())

    def work(self, now: float) -> bool:
        """Fire the schedules that are due by a time; return whether jobs were enqueued."""
        if not self._declared:
            self._engine.schedules.sync(schedules.declared(), now)
            self._declared = True
        fired, self._next = 0, inf
        read = self._engine.schedules.all()
        self._skipped = {row.pk: self._skipped[row.pk] for row in read if row.pk in self._skipped}
        for row in read:
            if row.enabled:
                fired += self._fire(row, now)
        self._read_at = time.monotonic() + READ_EVERY
        return fired > 0

    def stop(self) -> None:
        """Fire nothing any more, because this consumer is about to end."""
        self._read_at = self._next = inf

    def _fire(self, row: Schedule, now: float) -> int:
        settled = schedules.fired_until(row, self._began, now)
        try:
            due = schedules.due(row, now, settled, BATCH)
            jobs = self._jobs(row, due)
            following = schedules.next_occurrence(row, due[-1] if due else settled)
        except Exception as error:  # noqa: BLE001  (users' code makes the keys of limits)
            self._skip(row, str(error))
            return 0
        if following is not None:
            self._next = min(self._next, following)
        return self._engine.schedules.fire(row, jobs) if jobs else 0

    def _jobs(self, row: Schedule, due: list[float]) -> list[tuple[float, NewJob]]:
        if not due:
            return []
        call = schedules.call(row)
        jobs = [(occurrence, call.to_row()) for occurrence in due]
        self._skipped.pop(row.pk, None)
        return jobs

    def _skip(self, row: Schedule, problem: str) -> None:
        """Log once why a schedule is not fired here."""
        if self._skipped.get(row.pk) != problem:
            self._skipped[row.pk] = problem
            logger.warning("schedule %r is left to other consumers: %s", row.name, problem)
