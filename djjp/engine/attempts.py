"""Attempts that failed, as lists of failures read them: from the newest back."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from djjp.engine.database import Database
from djjp.models import Attempt

_TABLE = Attempt._meta.db_table
_NEWEST = f"""FROM (SELECT id, job_id, consumer, finished_at, exception_class FROM {_TABLE}
WHERE {{where}} ORDER BY id DESC LIMIT {{rows}}) AS attempt"""


class FailedAttempt(NamedTuple):
    """A failed attempt, without its texts."""

    id: int
    job: UUID
    consumer: str
    finished_at: float
    exception_class: str


class Attempts:
    """Read failed attempts."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def newest(self, before: int | None, rows: int) -> list[FailedAttempt]:
        """Return the newest attempts, or those before the one with an id.

        One whose job has no valid id, or that has no time, by hand, is left out.
        """
        where, params = ("true", []) if before is None else ("id < %s", [before])
        columns = self._db.select("id, job_id, consumer, finished_at, exception_class")
        is_time = self._db.is_time.format("finished_at")
        with self._db.connection.cursor() as cursor:
            cursor.execute(
                f"{columns} {_NEWEST.format(where=where, rows=rows)} WHERE {is_time}", params
            )
            found = self._db.fetch(cursor)
        return [
            FailedAttempt(
                id, job, consumer, self._db.to_seconds(finished_at), exception_class or ""
            )
            for id, key, consumer, finished_at, exception_class in found
            if (job := self._db.to_id(key)) is not None
        ]
