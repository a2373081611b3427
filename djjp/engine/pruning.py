"""Pruning: delete finished jobs that are old enough."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from djjp.durations import to_datetime, to_seconds
from djjp.engine.database import TABLE, Database
from djjp.engine.pipelines import EDGES, Pipelines
from djjp.engine.records import ON_FAILURE
from djjp.models import Attempt, Flag, Job, State

# The children of a job read its result in its row, so the row stays as long as they do.
_STILL_READ = f"""flags & {Flag.HAS_DEPENDENTS} <> 0 AND EXISTS (SELECT 1 FROM {EDGES} AS edge
JOIN {TABLE} AS child ON child.id = edge.child WHERE edge.parent = {TABLE}.id
AND edge.result_path <> '{ON_FAILURE}' AND NOT ({{gone}}))"""


class Pruning:
    """Delete finished jobs."""

    def __init__(self, db: Database, pipelines: Pipelines) -> None:
        self._db = db
        self._pipelines = pipelines

    def prune(
        self, states: Sequence[State], before: float, after: UUID | None, limit: int
    ) -> tuple[int, UUID | None]:
        """Delete finished jobs of these states that ended before a time, among the next `limit` rows.

        The rows are walked in the order of their ids, which is the order of their creation. A job that ended
        long ago was created long ago, so the walk needs no index on `finished_at`, which every finish would
        have to maintain.

        Args:
            after: the position of the walk; None for its beginning.

        Returns:
            The number of deleted jobs and the new position of the walk. The position is None when the walk
            has reached a row that was created after `before`, or the last row.
        """
        rows = Job.objects.using(self._db.alias).order_by("pk")
        if after is not None:
            rows = rows.filter(pk__gt=after)
        last = rows.values_list("pk", "created_at")[limit - 1 : limit].first()
        if last is not None:
            rows = rows.filter(pk__lte=last[0])
        old = rows.filter(state__in=states, finished_at__lt=to_datetime(before))
        ids = list(old.values_list("pk", flat=True)[:limit])
        count = self._delete_finished(ids, states, before) if ids else 0
        return count, None if last is None or to_seconds(last[1]) >= before else last[0]

    def _delete_finished(self, ids: list[UUID], states: Sequence[State], before: float) -> int:
        """Delete these jobs, except jobs that were retried meanwhile."""
        placeholders = ", ".join(["%s"] * len(states))
        still_read = _STILL_READ.format(
            gone=f"child.state IN ({placeholders}) AND child.finished_at < %s"
        )
        ended, stamp = [state.value for state in states], self._db.to_param(before)
        with self._db.transaction(), self._db.connection.cursor() as cursor:
            cursor.execute(
                f"DELETE FROM {TABLE} WHERE {self._db.in_ids('id')} AND finished_at < %s"
                " AND state IN ('succeeded', 'failed', 'cancelled')"
                f" AND NOT ({still_read}) RETURNING id, pipeline",
                [self._db.id_list(ids), stamp, *ended, stamp],
            )
            rows = cursor.fetchall()
            deleted = [self._db.to_uuid(id) for id, _ in rows]
            if steps := [self._db.to_uuid(id) for id, pipeline in rows if pipeline is not None]:
                self._pipelines.delete_edges(steps)
            cursor.execute(
                f"DELETE FROM {Attempt._meta.db_table} WHERE {self._db.in_ids('job_id')}",
                [self._db.id_list(deleted)],
            )
        return len(deleted)
