"""Tags: the index of the jobs that have one, with marks on those that have ended.

The tags of a job are in its row; the table of tags is an index of them, written with the row and deleted with
it. Two orders are bounded for any number of jobs: all jobs of a tag, and those that may be live. For the second,
the verbs that end the most jobs, finish and cancel, mark the tags of jobs that have ended, in the transaction of
the end; a retry takes the mark away. A tag without the mark proves nothing: the job's row decides.
"""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from djjp.engine.database import Database
from djjp.engine.rows import TABLE, TAGS

_HAS_ENDED = f"""EXISTS (SELECT 1 FROM {TABLE} AS job WHERE job.id = job_id
AND job.state IN ('succeeded', 'failed', 'cancelled'))"""


class Tags:
    """The index of tags."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def mark_ended(self, ids: Collection[UUID]) -> None:
        """Mark the tags of those of these jobs that have ended, in the transaction that has ended them."""
        self._set("ended = true", f"NOT ended AND {_HAS_ENDED}", ids)

    def mark_live(self, ids: Collection[UUID]) -> None:
        """Take the mark from the tags of jobs, in the transaction that makes them live again."""
        self._set("ended = false", "ended", ids)

    def delete(self, ids: Collection[UUID]) -> None:
        """Delete the tags of jobs that are deleted."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(
                f"DELETE FROM {TAGS} WHERE {self._db.in_ids('job_id')}", [self._db.id_list(ids)]
            )

    def _set(self, changes: str, condition: str, ids: Collection[UUID]) -> None:
        with self._db.connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE {TAGS} SET {changes} WHERE {self._db.in_ids('job_id')} AND {condition}",
                [self._db.id_list(ids)],
            )
