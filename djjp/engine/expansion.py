"""Expansion: write the jobs that a step of `expand()` becomes, piece by piece.

The step is two rows from the start. The one that *expands* has the list as its input; the other one *collects*: it
is blocked until the first one and all members have succeeded, and its dependents read the members' results through
it. Members are inserted a piece at a time, each piece in one transaction that

* is refused unless the expanding job still runs by the claim that made the piece, without a cancel request,
* skips the members that are there already: a member's id follows from its index, so that an expansion which is
  begun anew after a crash, or retried, goes on where it was,
* counts the new members among the unfinished parents of the collecting job.

So each item is one job, whatever dies between two pieces. The ids of the members lie between those of the two
rows: the order in which rows are locked holds for them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from django.db.models import TextField
from django.db.models.functions import Cast

from djjp.durations import to_seconds
from djjp.engine.database import Database
from djjp.engine.pipelines import EDGES
from djjp.engine.records import Claimed, Edge, NewJob
from djjp.engine.result_paths import NO_RESULT
from djjp.engine.rows import TABLE
from djjp.models import Flag, Job, State

_COPIED = [name for name in NewJob._fields if name != "context"]
_CONTEXT = Cast("context", TextField())  # its text, which the ORM gives as a dict


class Expansion:
    """Read the row of a job that expands, and insert its members."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def template(self, claimed: Claimed) -> NewJob | None:
        """Return the row of a claimed job that expands, as a new job; None if the row is gone."""
        row = (
            Job.objects.using(self._db.alias)
            .filter(pk=claimed.id)
            .values(*_COPIED, text=_CONTEXT)
            .first()
        )
        if row is None:
            return None
        row["context"] = row.pop("text")
        row["created_at"] = to_seconds(row["created_at"])
        if row["expires_at"] is not None:
            row["expires_at"] = to_seconds(row["expires_at"])
        return NewJob(**row)._replace(state=State.READY, run_after=None)

    def add(
        self, claimed: Claimed, members: Sequence[tuple[NewJob, str]], *, is_last: bool
    ) -> bool:
        """Write the next members, except those that are there; return False if the job no longer expands.

        Args:
            members: each with its result path.
            is_last: whether these are the last members, which take the place of the job from then on.
        """
        added = False

        def write() -> None:
            nonlocal added
            with self._db.transaction():
                added = self._add(claimed, members, is_last=is_last)

        self._db.with_retry(write)
        return added

    def _add(
        self, claimed: Claimed, members: Sequence[tuple[NewJob, str]], *, is_last: bool
    ) -> bool:
        key = self._db.keys([claimed.id])
        runs = f"state = 'running' AND claim = {claimed.claim} AND NOT cancel_requested"
        if not self._db.lock_rows("id", runs, key):
            return False
        collector = self._collector(claimed.id)
        if collector is None:
            return False
        ids = self._db.keys(job.id for job, _ in members)
        found = self._db.rows("id", f"FROM {TABLE} WHERE {{ids}}", ids) if ids else ()
        there = {self._db.to_uuid(id) for (id,) in found}
        new = [(job, path) for job, path in members if job.id not in there]
        if new:
            self._db.inserts.whole([job for job, _ in new])
            self._db.inserts.edges([Edge(job.id, collector, path) for job, path in new])
            more = f"waits_for = waits_for + {len(new)}"
            self._db.update_if(more, "state = 'blocked'", [], [collector])
            self._db.notify()
        if is_last:
            self._db.update(f"flags = flags | {Flag.UNLISTED}", [], key)
        return True

    def _collector(self, id: UUID) -> UUID | None:
        rest = f"FROM {EDGES} AS edge {{join}} {TABLE} AS job ON job.id = edge.child WHERE {{ids}}"
        collects = f"edge.result_path = '{NO_RESULT}' AND job.flags & {Flag.COLLECTS} <> 0"
        rows = self._db.rows("job.id", f"{rest} AND {collects}", self._db.keys([id]), "edge.parent")
        return self._db.to_uuid(rows[0][0]) if rows else None
