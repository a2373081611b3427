"""Manual retry and cancel, as requested through a handle, the admin or a command.

A retry inside a pipeline also retries the unsuccessful parents, and blocks the dependents again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import NamedTuple
from uuid import UUID

from django.db import IntegrityError

from djjp.engine.database import Database
from djjp.engine.pipelines import EDGES, Pipelines
from djjp.engine.result_paths import NEEDS_SUCCESS, ON_FAILURE, carries_result, tolerates
from djjp.engine.rows import TABLE, Key
from djjp.engine.tags import Tags
from djjp.engine.totals import Totals
from djjp.engine.unique_keys import UniqueKeys
from djjp.models import Flag, State

#: The columns of a job that has never run.
RESET = (
    "attempts = 0, rescues = 0, started_at = NULL, finished_at = NULL, consumer = NULL, result = NULL,"
    " reason = NULL, progress_done = NULL, progress_total = NULL, cancel_requested = false"
)

_ABOVE = f"""WITH RECURSIVE above(id) AS (
SELECT edge.parent FROM {EDGES} AS edge {{join}} {TABLE} AS job ON job.id = edge.parent
WHERE {{ids}} AND {NEEDS_SUCCESS} AND job.state IN ('failed', 'cancelled')
UNION SELECT edge.parent FROM above {{join}} {EDGES} AS edge ON edge.child = above.id
{{join}} {TABLE} AS job ON job.id = edge.parent
WHERE {NEEDS_SUCCESS} AND job.state IN ('failed', 'cancelled'))"""

# Jobs that have not started, jobs that were cancelled because of a parent, `on_failure` jobs that have run, and
# jobs that collect: these pass on what their parents return now.
_CAN_BE_BLOCKED = f"""(job.state = 'blocked'
OR job.state IN ('ready', 'scheduled')
OR (job.state = 'cancelled' AND job.flags & {Flag.CANCELLED_BY_PARENT} <> 0)
OR (job.state IN ('succeeded', 'failed') AND job.flags & {Flag.ON_FAILURE | Flag.COLLECTS} <> 0))"""

_BELOW = f"""WITH RECURSIVE below(id) AS (
SELECT edge.child FROM {EDGES} AS edge {{join}} {TABLE} AS job ON job.id = edge.child
WHERE {{ids}} AND {_CAN_BE_BLOCKED}
UNION SELECT edge.child FROM below {{join}} {TABLE} AS upper ON upper.id = below.id
{{join}} {EDGES} AS edge ON edge.parent = upper.id {{join}} {TABLE} AS job ON job.id = edge.child
WHERE (upper.state = 'cancelled' OR upper.flags & {Flag.COLLECTS} <> 0) AND {_CAN_BE_BLOCKED})"""

_PARENTS = f"""FROM {EDGES} AS edge {{join}} {TABLE} AS job ON job.id = edge.parent WHERE {{ids}}"""

# What a retry revokes. Only an `on_failure` job becomes unlisted by its end.
_OF_AN_END = f"""({Flag.CANCELLED_BY_PARENT} |
CASE WHEN flags & {Flag.ON_FAILURE} <> 0 THEN {Flag.UNLISTED} ELSE 0 END)"""

_UNSUCCESSFUL = (State.FAILED, State.CANCELLED)

# The jobs that can run again. An `on_failure` job that no failure has called has no input to run with.
_CAN_RUN_AGAIN = f"""state IN ('succeeded', 'failed', 'cancelled')
AND (flags & {Flag.ON_FAILURE} = 0 OR input IS NOT NULL)"""


class Retried(NamedTuple):
    """The jobs that a retry changes.

    Attributes:
        ready: the jobs that it makes ready.
        blocked: the jobs that it blocks until their parents have ended, also those that are blocked already.
    """

    ready: set[UUID]
    blocked: set[UUID]


class Control:
    """Retry and cancel jobs, which consumers can be running at the same time."""

    def __init__(
        self,
        db: Database,
        pipelines: Pipelines,
        unique_keys: UniqueKeys,
        tags: Tags,
        totals: Totals,
    ) -> None:
        self._db = db
        self._totals = totals
        self._pipelines = pipelines
        self._tags = tags
        self._unique_keys = unique_keys

    def retry(self, ids: Iterable[UUID]) -> int:
        """Make finished jobs ready again with fresh attempts, and return their number.

        The errors of earlier attempts are kept. In a pipeline the parents that have not succeeded are
        retried too, and the dependents are blocked again until they can run. A job whose unique key is held
        by another job by now loses the key.
        """
        ids = list(ids)
        for last in (False, False, True):
            try:
                return self.retry_once(ids)
            except IntegrityError:  # another job took a key in between
                if last:
                    raise
        raise AssertionError  # not reached: the last round returns or raises

    def retry_once(self, ids: Collection[UUID], *, keeps_keys: bool = False) -> int:
        """Do what `retry` does; IntegrityError is raised if another job takes a key meanwhile.

        Args:
            keeps_keys: the caller knows that the keys of these jobs are free; only unsuccessful parents, which are
                retried too, can lose theirs.
        """
        with self._db.transaction():
            steps, below = self._retry_scope(ids)
            may_lose = {*map(self._db.to_uuid, steps)}
            self._unique_keys.drop_taken(
                may_lose.difference(ids) if keeps_keys else may_lose.union(ids)
            )
            count = self._db.update_if(
                "state = 'ready', run_after = NULL, expires_at = NULL,"
                f" flags = flags & ~{Flag.CANCELLED_BY_PARENT | Flag.EXPIRES | Flag.THROTTLED}, {RESET}",
                _CAN_RUN_AGAIN,
                [],
                {*ids, *map(self._db.to_uuid, steps)},
            )
            if steps:
                self._block_again(steps, below)
            if count:
                self._tags.mark_live({*ids, *map(self._db.to_uuid, steps | below)})
                self._db.notify()
        return count

    def would_retry(self, ids: Iterable[UUID]) -> Retried:
        """Return the jobs that `retry` would change, by the same rules, without a change or a lock."""
        keys = self._db.keys(ids)
        steps, below = self._read_scope(keys)
        rest = f"FROM {TABLE} WHERE {{ids}} AND {_CAN_RUN_AGAIN}"
        ready = {id for (id,) in self._db.rows("id", rest, {*keys, *steps})} if keys else set()
        blocked = self._waiting(steps, below, ready) if steps else {}
        return Retried(
            {self._db.to_uuid(key) for key in ready if key not in blocked},
            {self._db.to_uuid(key) for key in blocked},
        )

    def would_retry_pipeline(self, pipeline: UUID) -> Retried:
        """Return the jobs that `retry_pipeline` would change."""
        return self.would_retry(self._to_retry(pipeline))

    def cancel(self, ids: Iterable[UUID], now: float, reason: str = "cancelled on request") -> int:
        """Cancel jobs that have not ended, and return their number.

        A job that does not run yet is cancelled at once, with its dependents. A running job is marked, and
        its consumer stops it.
        """
        with self._db.transaction():
            ids = list(ids)
            if self._db.locks_rows and len(ids) > 1:
                self._db.lock_rows("id", "true", self._db.keys(ids))  # all at once, in one order
            count = self._cancel(ids, now, reason)
            if count:
                self._tags.mark_ended(ids)
                self._pipelines.resolve_dependents(ids)
                self._db.notify()
        return count

    def cancel_pipeline(self, pipeline: UUID, now: float) -> int:
        """Cancel all jobs of a pipeline that have not ended, and return their number."""
        reason, count = "its pipeline was cancelled on request", 0
        cancelled: set[UUID] = set()
        # Again, because a step may have expanded meanwhile; once it is cancelled, it expands no further.
        while new := set(self._members(pipeline)) - cancelled:
            count += self.cancel(new, now, reason)
            cancelled |= new
        return count

    def retry_pipeline(self, pipeline: UUID) -> int:
        """Retry all failed and cancelled jobs of a pipeline, and return the number of jobs that were retried.

        When all jobs have succeeded, the last jobs of the pipeline run again.
        """
        ids = self._to_retry(pipeline)
        return self.retry(ids) if ids else 0

    def _to_retry(self, pipeline: UUID) -> list[UUID]:
        """Return the jobs of a pipeline with which a retry of it begins; none while it runs unfailed."""
        steps = f"FROM {TABLE} WHERE {{ids}} AND flags & {Flag.ON_FAILURE} = 0"
        unsuccessful = self._db.rows(
            "id",
            f"{steps} AND state IN ('failed', 'cancelled')",
            self._db.keys([pipeline]),
            "pipeline",
        )
        if unsuccessful:
            return [self._db.to_uuid(id) for (id,) in unsuccessful]
        live = self._db.rows(
            "id", f"{steps} AND state <> 'succeeded'", self._db.keys([pipeline]), "pipeline"
        )
        return [] if live else self._last_jobs(pipeline)

    def _last_jobs(self, pipeline: UUID) -> list[UUID]:
        """Return the jobs whose results are the pipeline's: of a last group, or `expand()`, its members."""
        keys = self._db.keys([pipeline])
        last = f"FROM {TABLE} WHERE {{ids}}"
        found = self._db.rows("id, flags", last, keys) or self._db.rows(
            "job.id, job.flags",
            f"{_PARENTS} AND edge.result_path <> '{ON_FAILURE}'",
            keys,
            "edge.child",
        )
        collecting = [key for key, flags in found if flags & Flag.COLLECTS]
        members = [p for p, _, path, _ in self._parents(collecting) if carries_result(path)]
        jobs = [key for key, flags in found if not flags & Flag.COLLECTS]
        return [self._db.to_uuid(key) for key in [*jobs, *members]]

    def _members(self, pipeline: UUID) -> list[UUID]:
        rows = self._db.rows(
            "id", f"FROM {TABLE} WHERE {{ids}}", self._db.keys([pipeline]), "pipeline"
        )
        return [self._db.to_uuid(id) for (id,) in rows]

    def _cancel(self, ids: Iterable[UUID], now: float, reason: str) -> int:
        # One statement, so that a job that is claimed or released meanwhile is updated by its new state.
        return self._totals.end(
            State.CANCELLED,
            "cancel_requested = (state = 'running'), reason = %s,"
            " finished_at = CASE WHEN state <> 'running' THEN %s ELSE finished_at END,"
            " state = CASE WHEN state <> 'running' THEN 'cancelled' ELSE state END",
            "state IN ('scheduled', 'blocked', 'ready', 'running')",
            [reason, self._db.to_param(now)],
            self._db.keys(ids),
        )

    # Retry inside a pipeline

    def _steps(self, ids: Collection[Key]) -> set[Key]:
        """Return the finished jobs among these that belong to a pipeline."""
        rest = (
            f"FROM {TABLE} WHERE {{ids}} AND pipeline IS NOT NULL"
            " AND state IN ('succeeded', 'failed', 'cancelled')"
        )
        return {id for (id,) in self._db.rows("id", rest, ids)} if ids else set()

    def _ancestors(self, steps: Collection[Key]) -> set[Key]:
        """Return the direct and indirect parents that failed or were cancelled."""
        return {id for (id,) in self._db.rows("id", "FROM above", steps, "edge.child", _ABOVE)}

    def _descendants(self, steps: Collection[Key]) -> set[Key]:
        """Return the dependents that may have to be blocked by these jobs again."""
        return {id for (id,) in self._db.rows("id", "FROM below", steps, "edge.parent", _BELOW)}

    def _retry_scope(self, ids: Collection[UUID]) -> tuple[set[Key], set[Key]]:
        """Lock and return the pipelines' jobs that must be retried with these, and their dependents."""
        keys = self._db.keys(ids)
        steps, below = self._read_scope(keys)
        if steps and self._db.locks_rows:
            # Lock before reading the states: a running parent may be about to fail.
            parents = {parent for parent, *_ in self._parents(steps | below)}
            self._db.lock_rows("id", "true", steps | below | parents)
            steps, below = self._read_scope(keys)
        return steps, below

    def _read_scope(self, ids: Collection[Key]) -> tuple[set[Key], set[Key]]:
        steps = self._steps(ids)
        if not steps:
            return set(), set()
        steps |= self._ancestors(steps)
        return steps, self._descendants(steps) - steps

    def _parents(self, ids: Collection[Key]) -> list[tuple[Key, Key, str, str]]:
        columns = "edge.parent, edge.child, edge.result_path, job.state"
        return [
            (parent, child, path, state)
            for parent, child, path, state in self._db.rows(columns, _PARENTS, ids, "edge.child")
        ]

    def _block_again(self, steps: set[Key], below: set[Key]) -> None:
        """Block those of the jobs that have unfinished parents, after the steps were made ready."""
        waits: dict[int, list[Key]] = defaultdict(list)
        for id, count in self._waiting(steps, below).items():
            waits[count].append(id)
        for count, ids in waits.items():
            flags = f"flags = flags & ~{_OF_AN_END}"
            changes = f"state = 'blocked', waits_for = %s, input = NULL, {flags}"
            self._db.update(f"{changes}, {RESET}", [count], ids)

    def _waiting(
        self, steps: set[Key], below: set[Key], ready: Collection[Key] = ()
    ) -> dict[Key, int]:
        """Return those of the jobs that have unfinished parents, each with their number.

        Args:
            ready: further jobs that count as ready, because a retry would make them so.
        """
        states: dict[Key, str] = {}
        parents: dict[Key, list[tuple[Key, str]]] = defaultdict(list)
        for parent, child, path, state in self._parents(steps | below):
            states[parent] = State.READY if parent in ready else state
            # An `on_failure` job that is itself retried runs without waiting for a parent.
            if path != ON_FAILURE or child not in steps:
                parents[child].append((parent, path))
        pending = steps | below
        waits: dict[Key, int] = {}
        for id in sorted(pending):  # parents first
            lost = [
                (p, path)
                for p, path in parents[id]
                if p not in pending and states[p] in _UNSUCCESSFUL
            ]
            if not all(tolerates(path) for _, path in lost):
                pending.discard(id)  # it would be blocked for ever
                continue
            waiting = sum(p in pending or states[p] != State.SUCCEEDED for p, _ in parents[id])
            if count := waiting - len(lost):
                waits[id] = count
        return waits
