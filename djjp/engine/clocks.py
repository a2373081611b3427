"""Clocks: put right the times that a clock wrote while it was ahead, and that would hold jobs back until then.

A time is in the future only by both clocks, this machine's and that of the queue's database: one of them can be
behind. Schedules and rates have such times too: see `Schedules.put_right` and `Rates.put_right`.
"""

from __future__ import annotations

import time

from djjp.durations import END_OF_TIME, to_datetime, to_seconds
from djjp.engine.database import Database
from djjp.engine.rows import TABLE
from djjp.models import Attempt, Queue

#: Seconds by which clocks may differ. A time further in the future was written by a clock that was wrong.
AHEAD = 60.0

_ATTEMPTS = Attempt._meta.db_table

# Some jobs that wait for a time, those that are due first, by the index. Later than the end of time is a misfit.
_WAITING = f"""FROM {TABLE} WHERE state = 'scheduled' AND run_after > %s AND run_after <= %s
ORDER BY run_after"""
# As an expression, because a driver would convert the column to its type.
_LAST = f"SELECT coalesce(run_after, NULL) {_WAITING} LIMIT 1 OFFSET %s"
_FAILED_LATER = f"""SELECT job.id, attempt.id, coalesce(job.run_after, NULL), coalesce(attempt.finished_at, NULL)
FROM (SELECT id, run_after, attempts {_WAITING} LIMIT %s) AS job {{join}} {_ATTEMPTS} AS attempt
ON attempt.job_id = job.id AND attempt.id = (SELECT max(id) FROM {_ATTEMPTS} WHERE job_id = job.id)
WHERE job.attempts > 0 AND attempt.finished_at > %s"""
_FAILED_NOW = f"UPDATE {_ATTEMPTS} SET started_at = %s, finished_at = %s WHERE id = %s"


class Clocks:
    """Find times of the future in the rows of retries and of paused queues, and let them count from now."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def put_right_retries(self, after: float, limit: int) -> tuple[int, float | None]:
        """Let jobs whose last attempt failed in the future wait for their next one from now.

        Reads up to `limit` scheduled jobs, in the order in which they are due.

        Args:
            after: the due time after which to start; 0 for the beginning.

        Returns:
            The number of jobs put right, and the due time of the last job read, or None if no more follow.
        """
        now = self._now()
        bounds = [self._db.to_param(max(after, now + AHEAD)), self._db.to_param(END_OF_TIME)]
        with self._db.connection.cursor() as cursor:
            cursor.execute(_LAST, [*bounds, limit - 1])
            last = cursor.fetchone()
            cursor.execute(
                _FAILED_LATER.format(join=self._db.join),
                [*bounds, limit, self._db.to_param(now + AHEAD)],
            )
            ahead = {job: more for job, *more in cursor.fetchall()}
        count = 0
        if ahead:
            with self._db.transaction(), self._db.connection.cursor() as cursor:
                # Some can have been promoted or cancelled since then.
                waiting = [key for (key,) in self._db.lock_rows("id", "state = 'scheduled'", ahead)]
                due = []
                for key in waiting:
                    attempt, run_after, failed_at = ahead[key]
                    pause = self._db.to_seconds(run_after) - self._db.to_seconds(failed_at)
                    due.append((key, now + max(0.0, pause)))
                    cursor.execute(_FAILED_NOW, [*[self._db.to_param(now)] * 2, attempt])
                self._db.reschedule("attempts = attempts", due)
                count = len(due)
        return count, None if last is None else self._db.to_seconds(last[0])

    def put_right_pauses(self) -> list[str]:
        """Let queues that were paused in the future resume after the same time from now; return their names."""
        now = self._now()
        rows = Queue.objects.using(self._db.alias)
        ahead = rows.filter(paused_at__gt=to_datetime(now + AHEAD), paused_until__isnull=False)
        names = []
        for queue in ahead:
            pause = to_seconds(queue.paused_until) - to_seconds(queue.paused_at)
            if rows.filter(pk=queue.pk, paused_at=queue.paused_at).update(
                paused_at=to_datetime(now), paused_until=to_datetime(now + pause)
            ):
                names.append(queue.name)
        return names

    def _now(self) -> float:
        return max(time.time(), self._db.clock())
