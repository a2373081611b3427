"""Suspects: jobs that ran when a consumer died, so that each of them may have killed it.

Nobody knows which of the jobs that died together was the cause. If they ran together again, the innocent ones
would die with the fatal one, until all have failed. So a consumer runs one suspect at a time, beside jobs that
were never rescued: two jobs meet in at most one death, and the fatal one uses up its rescues without the others.

Suspects are ready jobs with `rescues > 0`. They have an index of their own, and `Jobs.claim` does not read them,
however many wait. Those with the fewest rescues come first: they are the least suspicious.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple
from uuid import UUID

from djjp.engine.database import Database
from djjp.engine.jobs import Jobs
from djjp.engine.records import Claimed
from djjp.engine.rows import SUSPECT, TABLE, Key

# The first suspect of each queue is one step into the index.
_FIRST = f"""SELECT job.id, job.queue, job.priority + 0, job.rescues + 0 FROM (
SELECT (SELECT id FROM {TABLE} WHERE {SUSPECT} AND queue = served
AND {{usable}} AND name NOT IN (SELECT unknown FROM {{unknown}})
AND CAST(id AS text) NOT IN (SELECT refused FROM {{refused}})
ORDER BY priority DESC, rescues, id LIMIT 1) AS head FROM {{served}}) AS heads
{{join}} {TABLE} AS job ON job.id = heads.head"""


class Place(NamedTuple):
    """The values that decide when a ready job is claimed."""

    id: UUID
    queue: str
    priority: int


class Suspects:
    """Find and claim suspects, one at a time."""

    def __init__(self, db: Database, jobs: Jobs) -> None:
        self._db = db
        self._jobs = jobs

    def first(
        self,
        queues: Sequence[str],
        exclude_names: Sequence[str] = (),
        refused: Collection[Key] = (),
    ) -> Place | None:
        """Return the first suspect of these queues, by priority, rescues and age.

        Args:
            refused: jobs to leave out.
        """
        statement = _FIRST.format(
            served=self._db.listed("served"),
            usable=self._db.is_ordered,
            unknown=self._db.listed("unknown"),
            refused=self._db.listed("refused"),
            join=self._db.join,
        )
        with self._db.connection.cursor() as cursor:
            lists = (exclude_names, map(str, refused), queues)
            cursor.execute(statement, [self._db.key_list(each) for each in lists])
            heads = cursor.fetchall()
        if not heads:
            return None
        *first, _ = min(heads, key=lambda head: (-head[2], head[3], head[0]))
        return self._place(first)

    def claim(self, consumer: str, id: UUID, now: float) -> list[Claimed]:
        """Claim a suspect in the open transaction; return nothing if another consumer was faster."""
        return self._jobs.claim_keys(consumer, self._db.keys([id]), now)

    def places(self, jobs: Collection[Claimed]) -> dict[UUID, Place]:
        """Return, by id, the places that claimed jobs had among the ready ones."""
        rows = self._db.rows(
            "id, queue, priority",
            f"FROM {TABLE} WHERE {{ids}}",
            self._db.keys(job.id for job in jobs),
        )
        return {place.id: place for place in map(self._place, rows)}

    def _place(self, row: Sequence[object]) -> Place:
        id, queue, priority = row
        return Place(self._db.to_uuid(id), str(queue), int(str(priority)))
