"""The scheduler: each consumer fires due schedules of all queues; the database decides which one is first.

It remembers when the next occurrence is due. It reads the schedules then, and every few seconds in case
they were changed. A schedule whose job is not registered in this process is left to other consumers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from math import inf

from djjp import instruments, schedules, signals
from djjp.consumer.incidents import beside
from djjp.durations import END_OF_TIME, to_datetime
from djjp.engine import Engine, KeyHolders, NewJob, Refusal
from djjp.engine.clocks import AHEAD
from djjp.engine.schedules import DECLARE_EVERY
from djjp.instruments import Call
from djjp.jobs import hooks
from djjp.models import Schedule

logger = logging.getLogger("djjp.consumer")

#: Seconds between two reads of the schedules.
READ_EVERY = 3.0
#: The most occurrences of a schedule that are fired in one transaction.
BATCH = 100


class Scheduler:
    """Fires schedules on behalf of one consumer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sync_at = 0.0  # when the declared schedules are written into the queue next
        self._started = time.time()
        self._read_at = 0.0
        self._next = inf
        self._skipped: dict[int, str] = {}  # the problem logged for each schedule left to others

    def due(self) -> float:
        """Return the seconds until the next call of `work` is due."""
        return min(self._read_at - time.monotonic(), self._next - time.time())

    def work(self, now: float) -> bool:
        """Fire the schedules that are due by a time; return whether jobs were enqueued."""
        self._read_at = time.monotonic() + READ_EVERY  # also if an error ends this
        fired, self._next = 0, inf
        if time.monotonic() >= self._sync_at:
            declared = schedules.declared()
            if declared:
                # First by the present times: an occurrence that is due is not lost when the times change.
                fired += sum(self._fire(row, now) for row in self._rows(now) if row.enabled)
            self._engine.schedules.sync(declared, now)
            self._sync_at = time.monotonic() + DECLARE_EVERY
            self._next = inf
        rows = self._rows(now)
        self._skipped = {row.pk: self._skipped[row.pk] for row in rows if row.pk in self._skipped}
        for row in rows:
            if row.enabled:
                fired += self._fire(row, now)
        self._read_at = time.monotonic() + READ_EVERY
        return fired > 0

    @property
    def refused(self) -> Mapping[int, str]:
        """The schedules that are left to other consumers, by number, each with the reason."""
        return self._skipped

    def stop(self) -> None:
        """Fire no more schedules, because this consumer is about to end."""
        self._read_at = self._next = inf

    def _rows(self, now: float) -> list[Schedule]:
        """Return the schedules, those put right that a clock which was ahead has fired for the time to come."""
        self._started = min(self._started, now)  # the clock may have been ahead then
        rows = self._engine.schedules.all()
        ahead = [row for row in rows if row.fired_until > now + AHEAD]
        changed = [row for row in ahead if self._engine.schedules.put_right(row)]
        for row in changed:
            logger.warning(
                "schedule %r had been fired up to %s by a clock that was ahead; it goes on from now",
                row.name,
                to_datetime(min(row.fired_until, END_OF_TIME)).isoformat(
                    sep=" ", timespec="seconds"
                ),
            )
        return self._engine.schedules.all() if changed else rows

    def _fire(self, row: Schedule, now: float) -> int:
        """Enqueue the due occurrences of a schedule; return the number of jobs."""
        fired_until = schedules.fired_until(row, self._started, now)
        try:
            due = schedules.due(row, now, fired_until, BATCH)
            jobs = self._jobs(row, due)
            following = schedules.next_occurrence(row, due[-1] if due else fired_until)
        except Exception as error:  # noqa: BLE001  (users' code computes the keys of limits)
            self._skip(row, str(error))
            return 0
        if following is not None:
            self._next = min(self._next, following)
        try:
            return self._enqueue(row, jobs) if jobs else 0
        except Exception as error:
            if self._engine.db.classify(error) is not Refusal.CONTENT:
                raise
            self._skip(row, str(error))
            return 0

    def _enqueue(self, row: Schedule, jobs: list[tuple[float, NewJob]]) -> int:
        """Enqueue the jobs of occurrences, each inside the instruments; return their number."""
        if not (instruments.refresh() or signals.job_enqueued.receivers):
            return self._engine.schedules.fire(row, jobs)
        calls: list[Call] = []

        def enqueue(job: NewJob) -> KeyHolders:
            call = hooks.calls_of([job], schedule=row.name)
            with instruments.around_enqueue(call) as text:
                given = job if text is None else hooks.with_context(job, text)
                held = self._engine.jobs.enqueue(given)
            calls.extend(() if held else call)
            return held

        fired = self._engine.schedules.fire(row, jobs, enqueue)
        if fired and signals.job_enqueued.receivers:
            beside(lambda: hooks.send_enqueued(calls))
        return fired

    def _jobs(self, row: Schedule, due: list[float]) -> list[tuple[float, NewJob]]:
        """Return a job for each of these occurrences."""
        if not due:
            return []
        call = schedules.call(row)
        jobs = [(occurrence, call.to_row()) for occurrence in due]
        self._skipped.pop(row.pk, None)
        return jobs

    def _skip(self, row: Schedule, problem: str) -> None:
        """Log why a schedule is not fired here, once for each problem."""
        if self._skipped.get(row.pk) != problem:
            self._skipped[row.pk] = problem
            logger.warning("schedule %r is left to other consumers: %s", row.name, problem)
