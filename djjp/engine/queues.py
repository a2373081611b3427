"""Queues: pause and resume them, and find the queues with ready jobs."""

from __future__ import annotations

from djjp.engine.database import TABLE, Database
from djjp.models import Queue

_READY = f"FROM {TABLE} WHERE state = 'ready'"

# Steps through the index from one queue to the next: the cost does not depend on the number of jobs.
_WITH_READY = f"""WITH RECURSIVE found(queue) AS (SELECT min(queue) {_READY}
UNION ALL SELECT (SELECT min(queue) {_READY} AND queue > found.queue) FROM found
WHERE found.queue IS NOT NULL) {{selected}} FROM found WHERE queue IS NOT NULL"""

# Read in every turn that claims, therefore without the ORM.
_PAUSED = f"FROM {Queue._meta.db_table} WHERE paused_until IS NULL OR paused_until > %s"

_PAUSE = f"""INSERT INTO {Queue._meta.db_table} (name, paused_at, paused_until) VALUES (%s, %s, %s)
ON CONFLICT (name) DO UPDATE SET paused_at = excluded.paused_at, paused_until = excluded.paused_until"""


class Queues:
    """Pause and resume queues, and list those with ready jobs."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def with_ready(self) -> list[str]:
        """Return the names of the queues that have ready jobs."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(_WITH_READY.format(selected=self._db.select("queue")))
            return [name for (name,) in self._db.fetch(cursor)]

    def paused(self, now: float) -> frozenset[str]:
        """Return the names of the queues that are paused now."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(f"{self._db.select('name')} {_PAUSED}", [self._db.to_param(now)])
            return frozenset(name for (name,) in self._db.fetch(cursor))

    def pause(self, name: str, now: float, until: float | None) -> None:
        """Pause a queue: its jobs are not claimed until it is resumed.

        Args:
            until: when the queue resumes automatically; None when it stays paused until `resume`.
        """
        ends = None if until is None else self._db.to_param(until)
        with self._db.transaction(), self._db.connection.cursor() as cursor:
            cursor.execute(_PAUSE, [name, self._db.to_param(now), ends])
            self._db.notify()

    def resume(self, name: str, now: float) -> bool:
        """Resume a queue, and return whether it was paused."""
        with self._db.transaction():
            was_paused = name in self.paused(now)
            Queue.objects.using(self._db.alias).filter(pk=name).delete()
            if was_paused:
                self._db.notify()
        return was_paused
