"""Expiry: what has not started in time is cancelled."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from djjp.engine.database import TABLE
from djjp.engine.pipelines import Graph, Key
from djjp.engine.records import Claimed

_WAITS = "attempts = 0 AND state IN ('scheduled', 'blocked', 'ready')"


class Expiry(Graph):
    """Verbs of expiry."""

    def expire(self, now: float, limit: int) -> int:
        """Cancel up to `limit` jobs that should have started by now; returns how many there were."""
        # Looked for before anything is locked: there is hardly ever one.
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT id FROM {TABLE} WHERE expires_at <= %s AND attempts = 0"
                " AND state IN ('scheduled', 'blocked', 'ready') ORDER BY expires_at LIMIT %s",
                [self._stamp(now), limit],
            )
            late = [key for (key,) in cursor.fetchall()]
        if not late:
            return 0
        with self.turn():
            # Some may have started since.
            late = [key for (key,) in self._held("id", _WAITS, late)]
            if late:
                self._end_expired(late, now)
        return len(late)

    def _expired(self, jobs: Sequence[Claimed], now: float) -> set[UUID]:
        first = [job.id for job in jobs if job.attempt == 1]
        if not first:
            return set()
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT id FROM {TABLE} WHERE {self._within('id')} AND expires_at <= %s",
                [self._id_list(first), self._stamp(now)],
            )
            late = [key for (key,) in cursor.fetchall()]
        if late:
            self._change("consumer = NULL, started_at = NULL, attempts = attempts - 1", [], late)
            self._end_expired(late, now)
        return {self._uuid(key) for key in late}

    def _end_expired(self, keys: Sequence[Key], now: float) -> None:
        reason = "it did not start in time: its expires_after has passed"
        changes = "state = 'cancelled', finished_at = %s, reason = %s"
        self._change(changes, [self._stamp(now), reason], keys)
        self.follow([self._uuid(key) for key in keys])
