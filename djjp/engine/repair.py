"""Repair: single out the row that the database refuses, and end its job with the reason.

A row by hand, of another version, or under a trigger can hold what no consumer expects. A turn that such a row
fails is taken again in parts by its consumer, with the verbs of this concern, until the row is found.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from djjp.engine.database import Database
from djjp.engine.pipelines import Pipelines
from djjp.engine.records import Failure
from djjp.engine.rows import MISFIT, SUSPECT, TABLE, Key
from djjp.engine.totals import Totals
from djjp.models import Attempt, State

_ATTEMPTS = Attempt._meta.db_table

_FAIL = f"""UPDATE {TABLE} SET state = 'failed', finished_at = %s, reason = %s, consumer = NULL
WHERE {{its_id}} AND state = %s RETURNING queue, name, flags"""
# The number of an attempt that the job had, where the row has one.
_RECORD = f"""INSERT INTO {_ATTEMPTS}
(job_id, number, consumer, started_at, finished_at, exception_class, message, traceback)
VALUES (%s, 0, '', %s, %s, %s, %s, %s)"""

_DUE = f"""SELECT id FROM {TABLE} WHERE state = 'scheduled' AND run_after <= %s
ORDER BY run_after LIMIT %s"""
_PROMOTE = f"UPDATE {TABLE} SET state = 'ready' WHERE id = %s AND state = 'scheduled'"

# Among the first and the last scheduled jobs, because an index sorts what is no time before or after all times.
_ENDS = f"""SELECT id FROM (SELECT id, run_after FROM {TABLE} WHERE state = 'scheduled'
ORDER BY run_after {{order}} LIMIT %s) AS ends WHERE NOT ({{is_time}})"""
_NOBODYS = f"SELECT id FROM {TABLE} WHERE state = 'running' AND consumer IS NULL LIMIT %s"
_UNORDERED = f"SELECT id FROM {TABLE} WHERE state = 'ready' AND priority IS NULL LIMIT %s"
_UNORDERED_SUSPECT = f"SELECT id FROM {TABLE} WHERE {SUSPECT} AND NOT ({{is_ordered}}) LIMIT %s"
# The condition is that of an index, which is empty unless such rows were written by hand.
_UNCLAIMED = f"SELECT id FROM {TABLE} WHERE {MISFIT} LIMIT %s"


class Repair:
    """Find jobs whatever their rows contain, and fail those that no consumer can run."""

    def __init__(self, db: Database, pipelines: Pipelines, totals: Totals) -> None:
        self._db = db
        self._totals = totals
        self._pipelines = pipelines

    def ready_keys(
        self, limit: int, queues: Sequence[str] | None, exclude_names: Sequence[str]
    ) -> list[Key]:
        """Return the first ready jobs, for `Jobs.claim_keys`."""
        return self._db.claim_strategy.ready_keys(limit, queues, exclude_names)

    def due_keys(self, now: float, limit: int) -> list[Key]:
        """Return the first scheduled jobs that are due, for `promote`."""
        return self._keys(_DUE, [self._db.to_param(now), limit])

    def promote(self, keys: Sequence[Key]) -> None:
        """Make scheduled jobs ready."""
        with self._db.connection.cursor() as cursor:
            cursor.executemany(_PROMOTE, [(key,) for key in keys])

    def locked_elsewhere(self, ids: Collection[UUID]) -> set[UUID]:
        """Lock these jobs, except those that another transaction has locked, which are returned."""
        return self._db.locked_elsewhere(ids)

    def fail(self, key: Key, state: State, failure: Failure, now: float) -> bool:
        """Fail a job that is in this state, with the reason; return whether it was."""
        stamp = self._db.to_param(now)
        id = self._db.to_id(key)
        its_id = "id IS NULL" if key is None else "id = %s"
        values = [stamp, failure.message if id is None else None, *([] if key is None else [key])]
        with self._db.transaction(), self._db.connection.cursor() as cursor:
            cursor.execute(_FAIL.format(its_id=its_id), [*values, state])
            rows = cursor.fetchall()
            if not rows:
                return False
            self._totals.count(State.FAILED, rows)
            if id is not None:
                error = [failure.exception_class, failure.message, failure.traceback]
                cursor.execute(_RECORD, [key, stamp, stamp, *error])
                self._pipelines.resolve_dependents([id])
        return True

    def misfits(self, limit: int) -> list[tuple[Key, State, str]]:
        """Return jobs that no verb would ever take up, each with its state and the reason."""
        is_time = self._db.is_time.format("run_after")
        suspects = _UNORDERED_SUSPECT.format(is_ordered=self._db.is_ordered)
        found: list[tuple[Key, State, str]] = []
        for order in ("ASC", "DESC"):
            keys = self._keys(_ENDS.format(order=order, is_time=is_time), [limit])
            found += [(key, State.SCHEDULED, "its run_after is no time") for key in keys]
        for statement, state, reason in (
            (_NOBODYS, State.RUNNING, "it is running on no consumer"),
            (_UNORDERED, State.READY, "it has no priority"),
            (suspects, State.READY, "it has no place among the suspects by its id and priority"),
            (_UNCLAIMED, State.READY, "its rescues are no number of rescues"),
        ):
            found += [(key, state, reason) for key in self._keys(statement, [limit])]
        return found

    def _keys(self, statement: str, values: list[Any]) -> list[Key]:
        with self._db.connection.cursor() as cursor:
            cursor.execute(statement, values)
            return [key for (key,) in cursor.fetchall()]
