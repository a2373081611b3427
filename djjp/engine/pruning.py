"""Pruning: delete finished jobs that are old enough."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

from djjp.engine.database import Database
from djjp.engine.pipelines import EDGES, Pipelines
from djjp.engine.result_paths import ON_FAILURE
from djjp.engine.rows import TABLE, Key
from djjp.engine.tags import Tags
from djjp.ids import first_id, made_at
from djjp.models import FINISHED, Attempt, Flag, State

# The children of a job read its result in its row, so the row stays as long as they do; those of a job that
# collects read the rows of its parents.
_STILL_READ = f"""flags & {Flag.HAS_DEPENDENTS} <> 0 AND EXISTS (SELECT 1 FROM {EDGES} AS edge
JOIN {TABLE} AS child ON child.id = edge.child WHERE edge.parent = {TABLE}.id
AND edge.result_path <> '{ON_FAILURE}' AND (NOT ({{gone}}) OR (child.flags & {Flag.COLLECTS} <> 0 AND EXISTS (
SELECT 1 FROM {EDGES} AS edge JOIN {TABLE} AS reader ON reader.id = edge.child
WHERE edge.parent = child.id AND edge.result_path <> '{ON_FAILURE}' AND NOT ({{gone_reader}})))))"""

_ATTEMPTS = Attempt._meta.db_table
_ENDED = "state IN ('succeeded', 'failed', 'cancelled')"

# The dependents that read the results of jobs: those of a job that collects read the results of its parents.
_READERS = f"""FROM {EDGES} AS edge {{join}} {TABLE} AS job ON job.id = edge.child
WHERE {{ids}} AND edge.result_path <> '{ON_FAILURE}'"""

#: Why a job is not deleted on request.
IS_NEEDED = "part of a pipeline, its result is still needed"
IS_REFERRED_TO = "{table}.{column} refers to it"

#: A table and its column.
Reference = tuple[str, str]


class Pruning:
    """Delete finished jobs."""

    def __init__(self, db: Database, pipelines: Pipelines, tags: Tags) -> None:
        self._db = db
        self._pipelines = pipelines
        self._tags = tags

    def prune(
        self,
        states: Sequence[State],
        before: float,
        after: UUID | None,
        limit: int,
        references: Sequence[Reference] = (),
    ) -> tuple[int, UUID | None]:
        """Delete finished jobs of these states that ended before a time, among the next `limit` rows.

        The rows are walked in the order of their ids, which is the order of their creation. A job that ended
        long ago was created long ago, so the walk needs no index on `finished_at`, which every finish would
        have to maintain.

        Args:
            after: the position of the walk; None for its beginning.
            references: columns of other tables; the jobs to which one of them refers are kept.

        Returns:
            The number of deleted jobs and the new position of the walk. The position is None when the walk
            has reached a row that was created after `before`, or the last row.
        """
        # Without the ORM, which refuses a row by hand whose id is none, and with it the whole walk.
        stamp, ended = self._db.to_param(before), [state.value for state in states]
        rest, given = "", self._db.keys([] if after is None else [after])
        if given:
            rest = " AND id > %s"
        with self._db.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT id, created_at >= %s FROM {TABLE} WHERE true{rest}"
                " ORDER BY id LIMIT 1 OFFSET %s",
                [stamp, *given, limit - 1],
            )
            if (last := cursor.fetchone()) is not None:
                rest, given = f"{rest} AND id <= %s", [*given, last[0]]
            placeholders = ", ".join(["%s"] * len(ended))
            cursor.execute(
                f"SELECT id FROM {TABLE} WHERE state IN ({placeholders}) AND finished_at < %s{rest}"
                " ORDER BY id LIMIT %s",
                [*ended, stamp, *given, limit],
            )
            keys = [key for (key,) in cursor.fetchall()]
        ids = [id for id in map(self._db.to_id, keys) if id is not None]
        count = self._delete_finished(ids, states, before, references) if ids else 0
        return count, None if last is None or last[1] else self._db.to_id(last[0])

    def newest_job(self, before: float) -> float:
        """Return when the newest job was created that was created before a time; 0 if there is none."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT id FROM {TABLE} WHERE id < %s ORDER BY id DESC LIMIT 1",
                self._db.keys([first_id(before)]),
            )
            found = cursor.fetchone()
        newest = None if found is None else self._db.to_id(found[0])
        return 0.0 if newest is None else made_at(newest)

    def references(self) -> list[Reference]:
        """Return the columns of other tables with foreign keys to jobs, which forbid to delete these jobs."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(self._db.references, [TABLE])
            return [(table, column) for table, column in cursor.fetchall() if table != _ATTEMPTS]

    def kept(self, keys: Collection[Key]) -> dict[Key, str]:
        """Return those of these jobs that must not be deleted, each with the reason.

        Jobs that have not ended have no result: their dependents are cancelled.
        """
        ended = f"FROM {TABLE} WHERE {{ids}} AND flags & {Flag.HAS_DEPENDENTS} <> 0 AND {_ENDED}"
        parents = [key for (key,) in self._db.rows("id", ended, keys)]
        kept = dict.fromkeys(self._needed(parents), IS_NEEDED)
        quoted = self._db.connection.ops.quote_name
        for table, column in self.references():
            rest = f"FROM {quoted(table)} WHERE {{ids}}"
            reason = IS_REFERRED_TO.format(table=table, column=column)
            rows = self._db.rows(quoted(column), rest, keys, quoted(column))
            kept.update((key, reason) for (key,) in rows)
        return kept

    def _needed(self, parents: Collection[Key]) -> set[Key]:
        """Return the jobs whose results are read by dependents that have not ended."""
        if not parents:
            return set()
        columns = "edge.parent, job.id, job.state, job.flags"
        rows = self._db.rows(columns, _READERS, parents, "edge.parent")
        collecting = {child for _, child, _, flags in rows if flags & Flag.COLLECTS}
        passed_on = self._needed(collecting)
        return {
            parent
            for parent, child, state, _ in rows
            if state not in FINISHED or child in passed_on
        }

    def delete(self, ids: Collection[UUID]) -> None:
        """Delete jobs that do not run, in the open transaction; the dependents that are blocked are cancelled."""
        self._pipelines.cancel_dependents(ids)
        self._tags.delete(ids)
        with self._db.connection.cursor() as cursor:
            for table, column in ((_ATTEMPTS, "job_id"), (TABLE, "id")):
                statement = f"DELETE FROM {table} WHERE {self._db.in_ids(column)}"
                cursor.execute(statement, [self._db.id_list(ids)])

    def _delete_finished(
        self,
        ids: list[UUID],
        states: Sequence[State],
        before: float,
        references: Sequence[Reference],
    ) -> int:
        """Delete these jobs, except jobs that were retried meanwhile."""
        placeholders = ", ".join(["%s"] * len(states))
        gone = f"state IN ({placeholders}) AND {{row}}.finished_at < %s"
        still_read = _STILL_READ.format(
            gone="child." + gone.format(row="child"),
            gone_reader="reader." + gone.format(row="reader"),
        )
        name = self._db.connection.ops.quote_name
        kept = "".join(
            f" AND NOT EXISTS (SELECT 1 FROM {name(table)} AS other"
            f" WHERE other.{name(column)} = {TABLE}.id)"
            for table, column in references
        )
        ended, stamp = [state.value for state in states], self._db.to_param(before)
        with self._db.transaction(), self._db.connection.cursor() as cursor:
            cursor.execute(
                f"DELETE FROM {TABLE} WHERE {self._db.in_ids('id')} AND finished_at < %s"
                " AND state IN ('succeeded', 'failed', 'cancelled')"
                f" AND NOT ({still_read}){kept} RETURNING id, pipeline, flags & {Flag.TAGGED}",
                [self._db.id_list(ids), stamp, *[*ended, stamp] * 2],
            )
            rows = cursor.fetchall()
            deleted = [self._db.to_uuid(id) for id, _, _ in rows]
            if steps := [self._db.to_uuid(id) for id, pipeline, _ in rows if pipeline is not None]:
                self._pipelines.delete_edges(steps)
            if tagged := [self._db.to_uuid(id) for id, _, is_tagged in rows if is_tagged]:
                self._tags.delete(tagged)
            cursor.execute(
                f"DELETE FROM {_ATTEMPTS} WHERE {self._db.in_ids('job_id')}",
                [self._db.id_list(deleted)],
            )
        return len(deleted)
