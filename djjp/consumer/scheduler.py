"""The timekeeper: each consumer fires the schedules that are due, for all queues; the queue says who was first.

It keeps in mind when the next slot is due, and reads the schedules then, and every few seconds for what
people have changed. What this process can't fire, because it does not know the job, it leaves to others.
"""

from __future__ import annotations

import logging
import time
from math import inf

from djjp import schedules
from djjp.engine import Engine, NewJob
from djjp.models import Schedule

logger = logging.getLogger("djjp.consumer")

#: Seconds between two looks at the schedules.
READ_EVERY = 3.0
#: How many slots of a schedule are made up for in one transaction.
BATCH = 100


class Timekeeper:
    """Fires schedules on behalf of one consumer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._declared = False
        self._began = time.time()
        self._read_at = 0.0
        self._next = inf
        self._left: dict[int, str] = {}  # what was logged of schedules that are left to others

    def due(self) -> float:
        """Seconds until something is to be done."""
        return min(self._read_at - time.monotonic(), self._next - time.time())

    def work(self, now: float) -> bool:
        """Fire what is due by then; whether jobs were enqueued."""
        if not self._declared:
            self._engine.schedules.sync(schedules.declared(), now)
            self._declared = True
        fired, self._next = 0, inf
        read = self._engine.schedules.all()
        self._left = {row.pk: self._left[row.pk] for row in read if row.pk in self._left}
        for row in read:
            if row.enabled:
                fired += self._fire(row, now)
        self._read_at = time.monotonic() + READ_EVERY
        return fired > 0

    def stop(self) -> None:
        """Fire nothing any more: this consumer is about to end."""
        self._read_at = self._next = inf

    def _fire(self, row: Schedule, now: float) -> int:
        settled = schedules.fired_until(row, self._began, now)
        try:
            due = schedules.due(row, now, settled, BATCH)
            jobs = self._jobs(row, due)
            following = schedules.next_occurrence(row, due[-1] if due else settled)
        except Exception as error:  # noqa: BLE001  (the key of a limit is made by users' code)
            self._leave(row, str(error))
            return 0
        if following is not None:
            self._next = min(self._next, following)
        return self._engine.schedules.fire(row, jobs) if jobs else 0

    def _jobs(self, row: Schedule, due: list[float]) -> list[tuple[float, NewJob]]:
        if not due:
            return []
        call = schedules.call(row)
        jobs = [(slot, call.to_row()) for slot in due]
        self._left.pop(row.pk, None)
        return jobs

    def _leave(self, row: Schedule, problem: str) -> None:
        """Say once why a schedule is not fired here."""
        if self._left.get(row.pk) != problem:
            self._left[row.pk] = problem
            logger.warning("schedule %r is left to other consumers: %s", row.name, problem)
