"""What people ask for, by a handle, the admin or a command: to run jobs again, to stop them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from uuid import UUID

from django.db import IntegrityError

from djjp.engine.database import TABLE, Database, Key
from djjp.engine.pipelines import EDGES, Pipelines
from djjp.engine.records import ON_FAILURE
from djjp.engine.unique_keys import UniqueKeys
from djjp.models import Flag, State

#: What makes of a row one that never ran.
RESET = (
    "attempts = 0, rescues = 0, started_at = NULL, finished_at = NULL, consumer = NULL, result = NULL,"
    " reason = NULL, progress_done = NULL, progress_total = NULL, cancel_requested = false"
)

_ABOVE = f"""WITH RECURSIVE above(id) AS (
SELECT edge.parent FROM {EDGES} AS edge {{join}} {TABLE} AS job ON job.id = edge.parent
WHERE {{ids}} AND edge.result_path <> '{ON_FAILURE}' AND job.state IN ('failed', 'cancelled')
UNION SELECT edge.parent FROM above {{join}} {EDGES} AS edge ON edge.child = above.id
{{join}} {TABLE} AS job ON job.id = edge.parent
WHERE edge.result_path <> '{ON_FAILURE}' AND job.state IN ('failed', 'cancelled'))"""

# Jobs that have yet to begin, that were cancelled because of others, and on_failure jobs that have run.
_MAY_WAIT = f"""(job.state = 'blocked'
OR job.state IN ('ready', 'scheduled')
OR (job.state = 'cancelled' AND job.flags & {Flag.CANCELLED_BY_PARENT} <> 0)
OR (job.state IN ('succeeded', 'failed') AND job.flags & {Flag.ON_FAILURE} <> 0))"""

_BELOW = f"""WITH RECURSIVE below(id) AS (
SELECT edge.child FROM {EDGES} AS edge {{join}} {TABLE} AS job ON job.id = edge.child
WHERE {{ids}} AND {_MAY_WAIT}
UNION SELECT edge.child FROM below {{join}} {TABLE} AS upper ON upper.id = below.id
{{join}} {EDGES} AS edge ON edge.parent = upper.id {{join}} {TABLE} AS job ON job.id = edge.child
WHERE upper.state = 'cancelled' AND {_MAY_WAIT})"""

_PARENTS = f"""FROM {EDGES} AS edge {{join}} {TABLE} AS job ON job.id = edge.parent WHERE {{ids}}"""

_UNSUCCESSFUL = (State.FAILED, State.CANCELLED)


class Control:
    """Retry and cancel jobs, which consumers can be running at the same moment."""

    def __init__(self, db: Database, pipelines: Pipelines, unique_keys: UniqueKeys) -> None:
        self._db = db
        self._pipelines = pipelines
        self._unique_keys = unique_keys

    def retry(self, ids: Iterable[UUID]) -> int:
        """Make finished jobs ready again with fresh attempts; returns how many were.

        The errors of earlier attempts are kept. In a pipeline this takes the rest up again; and what a
        job waits for and what has not succeeded is retried with it. One whose unique key another has by now
        goes on without it.
        """
        ids = list(ids)
        for last in (False, False, True):
            try:
                return self._retry(ids)
            except IntegrityError:  # another has taken a key in between
                if last:
                    raise
        raise AssertionError  # the loop ends by itself

    def _retry(self, ids: Collection[UUID]) -> int:
        with self._db.transaction():
            steps, below = self._retry_scope(ids)
            self._unique_keys.drop_taken({*ids, *map(self._db.to_uuid, steps)})
            count = self._db.update_if(
                "state = 'ready', run_after = NULL, expires_at = NULL,"
                f" flags = flags & ~{Flag.CANCELLED_BY_PARENT | Flag.EXPIRES | Flag.THROTTLED}, {RESET}",
                # An on_failure job that nothing has called has nothing to be told.
                "state IN ('succeeded', 'failed', 'cancelled')"
                f" AND (flags & {Flag.ON_FAILURE} = 0 OR input IS NOT NULL)",
                [],
                {*ids, *map(self._db.to_uuid, steps)},
            )
            if steps:
                self._block_again(steps, below)
            if count:
                self._db.notify()
        return count

    def cancel(self, ids: Iterable[UUID], now: float, reason: str = "cancelled on request") -> int:
        """Stop jobs that have not ended; returns how many that were.

        One that waits is cancelled here and now, with what waits for it. One that runs is marked, for its
        consumer to stop it.
        """
        with self._db.transaction():
            ids = list(ids)
            if self._db.locks_rows and len(ids) > 1:
                self._db.lock_rows("id", "true", self._db.keys(ids))  # in order
            count = self._cancel(ids, now, reason)
            if count:
                self._pipelines.resolve_dependents(ids)
                self._db.notify()
        return count

    def cancel_pipeline(self, pipeline: UUID, now: float) -> int:
        """Stop all jobs of a pipeline that have not ended; returns how many that were."""
        return self.cancel(self._members(pipeline), now, "its pipeline was cancelled on request")

    def retry_pipeline(self, pipeline: UUID) -> int:
        """Take up all jobs of a pipeline that have not succeeded; returns how many were made ready, or to wait.

        One that has succeeded runs its last jobs again.
        """
        steps = f"FROM {TABLE} WHERE {{ids}} AND flags & {Flag.ON_FAILURE} = 0"
        lost = self._db.rows(
            "id",
            f"{steps} AND state IN ('failed', 'cancelled')",
            self._db.keys([pipeline]),
            "pipeline",
        )
        ids = [self._db.to_uuid(id) for (id,) in lost]
        if ids:
            return self.retry(ids)
        live = self._db.rows(
            "id", f"{steps} AND state <> 'succeeded'", self._db.keys([pipeline]), "pipeline"
        )
        return 0 if live else self.retry(self._pipelines.last_jobs(pipeline))

    def _members(self, pipeline: UUID) -> list[UUID]:
        rows = self._db.rows(
            "id", f"FROM {TABLE} WHERE {{ids}}", self._db.keys([pipeline]), "pipeline"
        )
        return [self._db.to_uuid(id) for (id,) in rows]

    def _cancel(self, ids: Iterable[UUID], now: float, reason: str) -> int:
        # One statement, for a job that is claimed or given back meanwhile to be met in its new state.
        return self._db.update_if(
            "cancel_requested = (state = 'running'), reason = %s,"
            " finished_at = CASE WHEN state <> 'running' THEN %s ELSE finished_at END,"
            " state = CASE WHEN state <> 'running' THEN 'cancelled' ELSE state END",
            "state IN ('scheduled', 'blocked', 'ready', 'running')",
            [reason, self._db.to_param(now)],
            ids,
        )

    # Retry inside a pipeline

    def _steps(self, ids: Collection[Key]) -> set[Key]:
        """Those of these jobs that have ended and are part of a pipeline."""
        rest = (
            f"FROM {TABLE} WHERE {{ids}} AND pipeline IS NOT NULL"
            " AND state IN ('succeeded', 'failed', 'cancelled')"
        )
        return {id for (id,) in self._db.rows("id", rest, ids)} if ids else set()

    def _ancestors(self, steps: Collection[Key]) -> set[Key]:
        """What these wait for, directly or not, and what has not succeeded."""
        return {id for (id,) in self._db.rows("id", "FROM above", steps, "edge.child", _ABOVE)}

    def _descendants(self, steps: Collection[Key]) -> set[Key]:
        """What may have to wait for these anew."""
        return {id for (id,) in self._db.rows("id", "FROM below", steps, "edge.parent", _BELOW)}

    def _retry_scope(self, ids: Collection[UUID]) -> tuple[set[Key], set[Key]]:
        """The steps to retry for the sake of these jobs, and what is below; all of it locked."""
        keys = self._db.keys(ids)
        steps, below = self._seen(keys)
        if steps and self._db.locks_rows:
            # Before it is judged: one that runs may be about to fail.
            parents = {parent for parent, *_ in self._parents(steps | below)}
            self._db.lock_rows("id", "true", steps | below | parents)
            steps, below = self._seen(keys)
        return steps, below

    def _seen(self, ids: Collection[Key]) -> tuple[set[Key], set[Key]]:
        steps = self._steps(ids)
        if not steps:
            return set(), set()
        steps |= self._ancestors(steps)
        return steps, self._descendants(steps) - steps

    def _parents(self, ids: Collection[Key]) -> list[tuple[Key, Key, str, str]]:
        columns = "edge.parent, edge.child, edge.result_path, job.state"
        return [
            (parent, child, place, state)
            for parent, child, place, state in self._db.rows(columns, _PARENTS, ids, "edge.child")
        ]

    def _block_again(self, steps: set[Key], below: set[Key]) -> None:
        """Block what has to wait, now that the steps were made ready."""
        states: dict[Key, str] = {}
        parents: dict[Key, list[Key]] = defaultdict(list)
        for parent, child, place, state in self._parents(steps | below):
            states[parent] = state
            # An on_failure job that is retried itself waits for nothing.
            if place != ON_FAILURE or child not in steps:
                parents[child].append(parent)
        again = steps | below
        waits: dict[int, list[Key]] = defaultdict(list)
        for id in sorted(again):  # parents first
            if any(p not in again and states[p] in _UNSUCCESSFUL for p in parents[id]):
                again.discard(id)  # it would wait for ever
                continue
            count = sum(p in again or states[p] != State.SUCCEEDED for p in parents[id])
            if count:
                waits[count].append(id)
        for count, ids in waits.items():
            flags = f"flags = flags & ~{Flag.CANCELLED_BY_PARENT}"
            changes = f"state = 'blocked', waits_for = %s, input = NULL, {flags}"
            self._db.update(f"{changes}, {RESET}", [count], ids)
