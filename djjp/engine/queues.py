"""Queues: pause and resume them, and find the queues with ready jobs."""

from __future__ import annotations

from djjp.engine.database import Database
from djjp.engine.rows import READY, SUSPECT, TABLE, stepping
from djjp.models import Queue

_READY = f"FROM {TABLE} WHERE {READY}"
_SUSPECTS = f"FROM {TABLE} WHERE {SUSPECT}"

# Read in every turn that claims, therefore without the ORM.
_NAME = "name || ''"  # as text, because SQLite keeps a BLOB in a row by hand, which its JSON cannot have
_PAUSED = f"FROM {Queue._meta.db_table} WHERE paused_until IS NULL OR paused_until > %s"
#: A SELECT of the names of the queues that are paused at the time that it takes.
PAUSED_NAMES = f"SELECT {_NAME} AS name {_PAUSED}"

_PAUSE = f"""INSERT INTO {Queue._meta.db_table} (name, paused_at, paused_until) VALUES (%s, %s, %s)
ON CONFLICT (name) DO UPDATE SET paused_at = excluded.paused_at, paused_until = excluded.paused_until"""


class Queues:
    """Pause and resume queues, and list those with ready jobs."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def with_ready(self, most: int | None = None) -> list[str]:
        """Return the names of the queues that have ready jobs, apart from suspects: all, or the first in order."""
        return self._with(_READY, most)

    def with_suspects(self, most: int | None = None) -> list[str]:
        """Return the names of the queues that have suspects: see `Suspects`."""
        return self._with(_SUSPECTS, most)

    def _with(self, rows: str, most: int | None) -> list[str]:
        limit = "" if most is None else f" LIMIT {most}"
        named = f"(SELECT queue FROM found WHERE queue IS NOT NULL{limit}) AS named"
        selected = self._db.select("queue || ''")
        with self._db.connection.cursor() as cursor:
            cursor.execute(f"{stepping('queue', rows)} {selected} FROM {named}")
            return [name for (name,) in self._db.fetch(cursor)]

    def paused(self, now: float) -> frozenset[str]:
        """Return the names of the queues that are paused now."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(f"{self._db.select(_NAME)} {_PAUSED}", [self._db.to_param(now)])
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
