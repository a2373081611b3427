"""What people ask for, by a handle, the admin or a command: to run jobs again, to stop them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from djjp.claims.common import TABLE, OnDatabase


class ByPeople(OnDatabase):
    """Verbs on jobs that others may be running at the same moment."""

    def retry(self, ids: Iterable[UUID]) -> int:
        """Make finished jobs ready again with fresh attempts; returns how many were.

        The errors of earlier attempts are kept.
        """
        count = self._update(
            "state = 'ready', attempts = 0, rescues = 0, run_after = NULL, started_at = NULL,"
            " finished_at = NULL, consumer = NULL, result = NULL, reason = NULL,"
            " progress_done = NULL, progress_total = NULL, cancel_requested = false",
            "state IN ('succeeded', 'failed', 'cancelled')",
            [],
            ids,
        )
        if count:
            self.announce()
        return count

    def cancel(self, ids: Iterable[UUID], now: float, reason: str = "cancelled on request") -> int:
        """Stop jobs that have not ended; returns how many that were.

        One that waits is cancelled here and now. One that runs is marked, for its consumer to stop it.
        """
        # One statement, for a job that is claimed or given back meanwhile to be met in its new state.
        count = self._update(
            "cancel_requested = (state = 'running'), reason = %s,"
            " finished_at = CASE WHEN state <> 'running' THEN %s ELSE finished_at END,"
            " state = CASE WHEN state <> 'running' THEN 'cancelled' ELSE state END",
            "state IN ('scheduled', 'blocked', 'ready', 'running')",
            [reason, self._stamp(now)],
            ids,
        )
        if count:
            self.announce()
        return count

    def _update(self, changes: str, where: str, values: list[Any], ids: Iterable[UUID]) -> int:
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE {TABLE} SET {changes} WHERE {self._within('id')} AND {where}",
                [*values, self._id_list(ids)],
            )
            count: int = cursor.rowcount
            return count
