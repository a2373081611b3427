"""Expiry: cancel jobs that have not started in time."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from djjp.engine.database import TABLE, Database, Key
from djjp.engine.pipelines import Pipelines
from djjp.engine.records import Claimed

_NOT_STARTED = "attempts = 0 AND state IN ('scheduled', 'blocked', 'ready')"


class Expiry:
    """Cancel jobs that have not started in time."""

    def __init__(self, db: Database, pipelines: Pipelines) -> None:
        self._db = db
        self._pipelines = pipelines

    def expire(self, now: float, limit: int) -> int:
        """Cancel up to `limit` jobs that should have started by now; return their number."""
        # The query comes before any lock, because there is hardly ever such a job.
        with self._db.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT id FROM {TABLE} WHERE expires_at <= %s AND {_NOT_STARTED}"
                " ORDER BY expires_at LIMIT %s",
                [self._db.to_param(now), limit],
            )
            late = [key for (key,) in cursor.fetchall()]
        if not late:
            return 0
        with self._db.transaction():
            # Some can have started since then.
            late = [key for (key,) in self._db.lock_rows("id", _NOT_STARTED, late)]
            if late:
                self._end_expired(late, now)
        return len(late)

    def cancel_expired(self, jobs: Sequence[Claimed], now: float) -> set[UUID]:
        """Cancel those of these claimed jobs that should have started before `now`; return their ids."""
        first = [job.id for job in jobs if job.attempt == 1]
        if not first:
            return set()
        with self._db.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT id FROM {TABLE} WHERE {self._db.in_ids('id')} AND expires_at <= %s",
                [self._db.id_list(first), self._db.to_param(now)],
            )
            late = [key for (key,) in cursor.fetchall()]
        if late:
            self._db.update("consumer = NULL, started_at = NULL, attempts = attempts - 1", [], late)
            self._end_expired(late, now)
        return {self._db.to_uuid(key) for key in late}

    def _end_expired(self, keys: Sequence[Key], now: float) -> None:
        reason = "it did not start in time: its expires_after has passed"
        changes = "state = 'cancelled', finished_at = %s, reason = %s"
        self._db.update(changes, [self._db.to_param(now), reason], keys)
        self._pipelines.resolve_dependents([self._db.to_uuid(key) for key in keys])
