"""Unique keys: an index allows one live job for each; a second enqueue gets the holder."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

from django.db import DatabaseError

from djjp.engine.database import Database
from djjp.engine.records import Holder, KeyHolders, NewJob
from djjp.engine.rows import TABLE, Key
from djjp.models import FINISHED, LIVE, Flag, State

_LIVE = ", ".join(f"'{state.value}'" for state in LIVE)
_FINISHED = ", ".join(f"'{state.value}'" for state in FINISHED)

# A holder can end between the insert that met it and the query that reads it: then the insert is repeated.
_TRIES = 20


class UniqueKeys:
    """Insert jobs whose key no live job holds, and find the holders of the other keys."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def insert_constrained(self, jobs: Sequence[NewJob]) -> KeyHolders:
        """Write jobs that have constraints, as `Jobs.enqueue_many` does."""
        held: dict[UUID, Holder] = {}

        def write() -> None:
            held.clear()
            with self._db.transaction():
                held.update(self._insert_unique(jobs))
                self._db.notify()

        self._db.with_retry(write)
        return held

    def _insert_unique(self, jobs: Sequence[NewJob]) -> dict[UUID, Holder]:
        held: dict[UUID, Holder] = {}
        # In one order, so that two transactions that write the same keys do not wait for each other.
        left = sorted(jobs, key=lambda job: job.unique_key or "")
        for _ in range(_TRIES):
            self._db.inserts.whole(left)
            left = self._missing(left)
            if not left:
                return held
            holders = self.holders({job.unique_key for job in left})
            met = {job.id: holders[job.unique_key] for job in left if job.unique_key in holders}
            held.update(met)
            left = [job for job in left if job.id not in met]
            if not left:
                return held
        raise DatabaseError(
            f"the unique key {left[0].unique_key!r} had another holder at each of {_TRIES} tries"
        )

    def _missing(self, jobs: Sequence[NewJob]) -> list[NewJob]:
        unique = [job for job in jobs if job.unique_key is not None]
        if not unique:
            return []
        keys = self._db.keys(job.id for job in unique)
        there = {key for (key,) in self._db.rows("id", f"FROM {TABLE} WHERE {{ids}}", keys)}
        return [job for job, key in zip(unique, keys, strict=True) if key not in there]

    def holders(self, keys: Collection[str | None]) -> dict[str | None, Holder]:
        """Return the live jobs that have these keys, by key."""
        rest = f"FROM {TABLE} WHERE {{ids}} AND unique_key IS NOT NULL AND state IN ({_LIVE})"
        rows = self._db.rows("unique_key, id, state", rest, keys, "unique_key")
        return {key: Holder(self._db.to_uuid(id), State(state)) for key, id, state in rows}

    def drop_taken(self, ids: Collection[UUID]) -> None:
        """Clear the keys of finished jobs that are about to be retried, where another job holds the key now."""
        rest = f"FROM {TABLE} WHERE {{ids}} AND unique_key IS NOT NULL AND state IN ({_FINISHED})"
        rows = self._db.rows("id, unique_key", rest, self._db.keys(ids)) if ids else ()
        if not rows:
            return
        taken: set[str | None] = {*self.holders({key for _, key in rows})}
        lost: list[Key] = []
        for id, key in sorted(rows, key=lambda row: row[0]):
            if key in taken:
                lost.append(id)
            taken.add(key)
        if lost:
            flags = f"flags & ~{Flag.UNIQUE | Flag.UNTIL_START}"
            self._db.update(f"unique_key = NULL, flags = {flags}", [], lost)
