"""Expiry: cancel jobs that have not started in time.

They are late by this machine's clock and by that of the queue's database: one of them can be ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from djjp.engine.database import Database
from djjp.engine.pipelines import Pipelines
from djjp.engine.records import Claimed
from djjp.engine.rows import TABLE, Key
from djjp.engine.totals import Totals
from djjp.models import State

#: The reason of a job that is cancelled because it has not started in time.
EXPIRED = "it did not start in time: its expires_after has passed"

_NOT_STARTED = "attempts = 0 AND state IN ('scheduled', 'blocked', 'ready')"


class Expiry:
    """Cancel jobs that have not started in time."""

    def __init__(self, db: Database, pipelines: Pipelines, totals: Totals) -> None:
        self._db = db
        self._totals = totals
        self._pipelines = pipelines

    def expire(self, now: float, limit: int) -> int:
        """Cancel up to `limit` jobs that should have started by now; return their number."""
        # The query comes before any lock, because there is hardly ever such a job.
        if not self._late(now, limit):
            return 0
        now = min(now, self._db.clock())
        late = self._late(now, limit)
        with self._db.transaction():
            # Some can have started since then.
            late = [key for (key,) in self._db.lock_rows("id", _NOT_STARTED, late)]
            if late:
                self._end_expired(late, now)
        return len(late)

    def cancel_expired(self, jobs: Sequence[Claimed], now: float) -> set[UUID]:
        """Cancel those of these claimed jobs that should have started before `now`; return their ids."""
        first = [job.id for job in jobs if job.attempt == 1]
        if not first or not self._late_among(first, now):
            return set()
        now = min(now, self._db.clock())
        late = self._late_among(first, now)
        if late:
            self._db.update("consumer = NULL, started_at = NULL, attempts = attempts - 1", [], late)
            self._end_expired(late, now)
        return {self._db.to_uuid(key) for key in late}

    def _late(self, now: float, limit: int) -> list[Key]:
        with self._db.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT id FROM {TABLE} WHERE expires_at <= %s AND {_NOT_STARTED}"
                " ORDER BY expires_at LIMIT %s",
                [self._db.to_param(now), limit],
            )
            return [key for (key,) in cursor.fetchall()]

    def _late_among(self, ids: Sequence[UUID], now: float) -> list[Key]:
        with self._db.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT id FROM {TABLE} WHERE {self._db.in_ids('id')} AND expires_at <= %s",
                [self._db.id_list(ids), self._db.to_param(now)],
            )
            return [key for (key,) in cursor.fetchall()]

    def _end_expired(self, keys: Sequence[Key], now: float) -> None:
        changes = "state = 'cancelled', finished_at = %s, reason = %s"
        self._totals.end(State.CANCELLED, changes, "true", [self._db.to_param(now), EXPIRED], keys)
        self._pipelines.resolve_dependents([self._db.to_uuid(key) for key in keys])
