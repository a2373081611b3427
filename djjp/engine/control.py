"""What people ask for, by a handle, the admin or a command: to run jobs again, to stop them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any
from uuid import UUID

from django.db import IntegrityError

from djjp.engine.database import TABLE
from djjp.engine.pipelines import EDGES
from djjp.engine.records import ON_FAILURE
from djjp.engine.takeup import FRESH, TakeUp
from djjp.engine.unique_keys import Unique
from djjp.models import Flag


class ByPeople(TakeUp, Unique):
    """Verbs on jobs that others may be running at the same moment."""

    def retry(self, ids: Iterable[UUID]) -> int:
        """Make finished jobs ready again with fresh attempts; returns how many were.

        The errors of earlier attempts are kept. In a pipeline this takes the rest up again; and what a
        job waits for and what has not succeeded is retried with it. One whose unique key another has by now
        goes on without it.
        """
        ids = list(ids)
        for last in (False, False, True):
            try:
                return self._retry(ids)
            except IntegrityError:  # another has taken a key in between
                if last:
                    raise
        raise AssertionError  # the loop ends by itself

    def _retry(self, ids: Collection[UUID]) -> int:
        with self.turn():
            steps, below = self._around(ids)
            self.give_up_keys({*ids, *map(self._uuid, steps)})
            count = self._update(
                "state = 'ready', run_after = NULL, expires_at = NULL,"
                f" flags = flags & ~{Flag.CANCELLED_BY_PARENT | Flag.EXPIRES | Flag.THROTTLED}, {FRESH}",
                # An on_failure job that nothing has called has nothing to be told.
                "state IN ('succeeded', 'failed', 'cancelled')"
                f" AND (flags & {Flag.ON_FAILURE} = 0 OR input IS NOT NULL)",
                [],
                {*ids, *map(self._uuid, steps)},
            )
            if steps:
                self._wait_again(steps, below)
            if count:
                self.announce()
        return count

    def cancel(self, ids: Iterable[UUID], now: float, reason: str = "cancelled on request") -> int:
        """Stop jobs that have not ended; returns how many that were.

        One that waits is cancelled here and now, with what waits for it. One that runs is marked, for its
        consumer to stop it.
        """
        with self.turn():
            ids = list(ids)
            if self._locks and len(ids) > 1:
                self._held("id", "true", self._keys(ids))  # in order
            count = self._cancel(ids, now, reason)
            if count:
                self.follow(ids)
                self.announce()
        return count

    def end_cancelled(
        self, ids: Iterable[UUID], now: float, reason: str = "cancelled on request"
    ) -> None:
        """Say when and why jobs have ended that came into the queue as cancelled."""
        self._update(
            "finished_at = %s, reason = %s",
            "state = 'cancelled' AND finished_at IS NULL",
            [self._stamp(now), reason],
            ids,
        )

    def cancel_pipeline(self, pipeline: UUID, now: float) -> int:
        """Stop all jobs of a pipeline that have not ended; returns how many that were."""
        return self.cancel(self._members(pipeline), now, "its pipeline was cancelled on request")

    def retry_pipeline(self, pipeline: UUID) -> int:
        """Take up all jobs of a pipeline that have not succeeded; returns how many were made ready, or to wait.

        One that has succeeded runs its last jobs again.
        """
        steps = f"FROM {TABLE} WHERE {{ids}} AND flags & {Flag.ON_FAILURE} = 0"
        lost = self._rows(
            "id",
            f"{steps} AND state IN ('failed', 'cancelled')",
            self._keys([pipeline]),
            "pipeline",
        )
        ids = [self._uuid(id) for (id,) in lost]
        if ids:
            return self.retry(ids)
        live = self._rows(
            "id", f"{steps} AND state <> 'succeeded'", self._keys([pipeline]), "pipeline"
        )
        return 0 if live else self.retry(self.tails(pipeline))

    def tails(self, pipeline: UUID) -> list[UUID]:
        """The last jobs of a pipeline: the one that has its id, or the members of its last group."""
        rows = self._rows(
            "parent",
            f"FROM {EDGES} WHERE {{ids}} AND place <> '{ON_FAILURE}'",
            self._keys([pipeline]),
            "child",
        )
        found = self._rows("id", f"FROM {TABLE} WHERE {{ids}}", self._keys([pipeline]))
        return [self._uuid(id) for (id,) in found or rows]

    def _members(self, pipeline: UUID) -> list[UUID]:
        rows = self._rows("id", f"FROM {TABLE} WHERE {{ids}}", self._keys([pipeline]), "pipeline")
        return [self._uuid(id) for (id,) in rows]

    def _cancel(self, ids: Iterable[UUID], now: float, reason: str) -> int:
        # One statement, for a job that is claimed or given back meanwhile to be met in its new state.
        return self._update(
            "cancel_requested = (state = 'running'), reason = %s,"
            " finished_at = CASE WHEN state <> 'running' THEN %s ELSE finished_at END,"
            " state = CASE WHEN state <> 'running' THEN 'cancelled' ELSE state END",
            "state IN ('scheduled', 'blocked', 'ready', 'running')",
            [reason, self._stamp(now)],
            ids,
        )

    def _update(self, changes: str, where: str, values: list[Any], ids: Iterable[UUID]) -> int:
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE {TABLE} SET {changes} WHERE {self._within('id')} AND {where}",
                [*values, self._id_list(ids)],
            )
            count: int = cursor.rowcount
            return count
