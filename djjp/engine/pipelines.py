"""Pipelines: the effect of a job's end on its dependents.

The graph is stored as rows: every job of a pipeline is enqueued at the start. A job with parents is
`blocked` and counts the parents that have not succeeded yet (`waits_for`); each edge is a `Dependency`.
The promises:

* The end of a job and its effect on the dependents are one transaction, behind one fence. A late outcome,
  which the fence refuses, has no effect on the dependents; an end that is written has its effect exactly once.
* A job runs when all its parents have succeeded. When a parent fails or is cancelled, the job is cancelled at
  once, together with its own dependents, so no job waits for an end that will never come.
* An `on_failure` job is the reverse: it runs when one of its parents does not succeed, and is cancelled
  when all of them have succeeded.
* An edge whose result path tolerates it counts a parent that does not succeed like one that does: the child runs
  with the reason in place of the result.

Rows are locked in the order of their ids, in which the parents of a pipeline come before their children.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any
from uuid import UUID

from djjp.engine.database import Database
from djjp.engine.records import NewPipeline
from djjp.engine.result_paths import ON_FAILURE, tolerates
from djjp.engine.rows import TABLE, Key
from djjp.engine.totals import Totals
from djjp.models import Attempt, Dependency, Flag, State

EDGES = Dependency._meta.db_table

#: The reason of a cancelled `on_failure` job.
NOT_NEEDED = "nothing failed"

# The length to which an error's message is cut in a reason, in characters.
_MAX_MESSAGE = 1000

_ENDED = f"""FROM {TABLE} WHERE {{ids}} AND flags & {Flag.HAS_DEPENDENTS} <> 0
AND state IN ('succeeded', 'failed', 'cancelled')"""

# UNION, not UNION ALL: a job that is reached along several paths is followed once.
_BELOW = f"""WITH RECURSIVE below(id) AS (
SELECT edge.child FROM {EDGES} AS edge {{join}} {TABLE} AS job ON job.id = edge.child
WHERE {{ids}} AND job.state = 'blocked'
UNION SELECT edge.child FROM below {{join}} {EDGES} AS edge ON edge.parent = below.id
{{join}} {TABLE} AS job ON job.id = edge.child WHERE job.state = 'blocked')"""

_IS_LAST = "job.waits_for <= arriving.count"
_IS_NOT_NEEDED = f"{_IS_LAST} AND job.flags & {Flag.ON_FAILURE} <> 0"
#: The columns of jobs of which `arriving.count` more parents have succeeded. Parameters: the time, twice.
ARRIVED = f"""waits_for = CASE WHEN {_IS_LAST} THEN 0 ELSE job.waits_for - arriving.count END,
state = CASE WHEN NOT ({_IS_LAST}) THEN 'blocked' WHEN {_IS_NOT_NEEDED} THEN 'cancelled'
        WHEN job.run_after > %s THEN 'scheduled' ELSE 'ready' END,
finished_at = CASE WHEN {_IS_NOT_NEEDED} THEN %s ELSE job.finished_at END,
reason = CASE WHEN {_IS_NOT_NEEDED} THEN '{NOT_NEEDED}' ELSE job.reason END,
flags = job.flags | CASE WHEN {_IS_NOT_NEEDED} THEN {Flag.CANCELLED_BY_PARENT | Flag.UNLISTED} ELSE 0 END"""

_UNBLOCK = """state = CASE WHEN run_after > %s THEN 'scheduled' ELSE 'ready' END, waits_for = 0"""

_Children = defaultdict[Key, list[tuple[Key, str]]]  # by parent: child and result path
# Jobs by the unsuccessful job whose reason is written to them.
_ByCause = defaultdict[Key, list[Key]]
_Unsuccessful = Mapping[Key, Any]  # by job: its name, its end and its reason


class Pipelines:
    """Enqueue pipelines, resolve or cancel dependents, and collect inputs."""

    def __init__(self, db: Database, totals: Totals) -> None:
        self._db = db
        self._totals = totals

    # Enqueue

    def enqueue(self, pipeline: NewPipeline) -> None:
        """Write the jobs of a pipeline and their edges, all of them or none."""

        def write() -> None:
            with self._db.transaction():
                self._db.inserts.whole(pipeline.jobs)
                self._db.inserts.edges(pipeline.edges)
                self._db.notify()

        self._db.with_retry(write)

    # Dependents

    def resolve_dependents(self, ids: Collection[UUID], succeeded: Collection[UUID] = ()) -> None:
        """Apply the end of these jobs to their dependents. Jobs that have not ended are skipped.

        Every verb that ends jobs must call this in the transaction of their end: no other place resolves
        dependents.

        Args:
            succeeded: further jobs, known to have succeeded, whose rows are therefore not read.
        """
        ended = self._db.rows("id, name, state, reason", _ENDED, self._db.keys(ids)) if ids else []
        successful = {
            *self._db.keys(succeeded),
            *(row[0] for row in ended if row[2] == State.SUCCEEDED),
        }
        unsuccessful = {row[0]: row[1:] for row in ended if row[2] != State.SUCCEEDED}
        if successful or unsuccessful:
            self._propagate(successful, unsuccessful)

    def cancel_dependents(self, ids: Collection[UUID]) -> None:
        """Cancel the dependents of jobs that are about to be deleted, and delete the jobs' edges."""
        rest = f"FROM {TABLE} WHERE {{ids}} AND pipeline IS NOT NULL"
        steps = self._db.rows("id, name", rest, self._db.keys(ids)) if ids else []
        if steps:
            gone = {key: (name, "deleted", None) for key, name in steps}
            self._propagate(set(), gone)
            self.delete_edges([self._db.to_uuid(key) for key in gone])

    def delete_edges(self, ids: Collection[UUID]) -> None:
        """Delete the edges from and to these jobs."""
        with self._db.connection.cursor() as cursor:
            for end in ("parent", "child"):
                statement = f"DELETE FROM {EDGES} WHERE {self._db.in_ids(end)}"
                cursor.execute(statement, [self._db.id_list(ids)])

    def _propagate(self, succeeded: Collection[Key], unsuccessful: _Unsuccessful) -> None:
        if unsuccessful:
            self._cancel_descendants(succeeded, unsuccessful)
        if succeeded:
            self._db.count_down(succeeded)

    def _cancel_descendants(self, succeeded: Collection[Key], unsuccessful: _Unsuccessful) -> None:
        """Cancel the descendants of the unsuccessful jobs, and unblock their `on_failure` jobs."""
        children = self._children(succeeded, unsuccessful)
        # Include the children of the succeeded jobs, which are counted down next: locking all rows in one
        # statement keeps them in one order.
        blocked = self._lock_blocked({child for edges in children.values() for child, _ in edges})
        if not blocked:
            return
        unblocked: _ByCause = defaultdict(list)
        cancelled: _ByCause = defaultdict(list)
        tolerated: set[Key] = set()
        visited: set[Key] = set()
        for root in unsuccessful:
            to_visit = [root]
            while to_visit:
                parent = to_visit.pop()
                for child, path in children[parent]:
                    if child not in blocked or child in visited:
                        continue
                    if tolerates(path):
                        tolerated.add(parent)
                        continue
                    visited.add(child)
                    if path == ON_FAILURE:
                        unblocked[root].append(child)
                    else:
                        cancelled[root].append(child)
                        to_visit.append(child)
        causes = {root: unsuccessful[root] for root in (*cancelled, *unblocked)}
        self._write(unblocked, cancelled, self._reasons(causes))
        if tolerated:
            # The children that are cancelled by now, by another parent, are skipped.
            self._db.count_down(tolerated, tolerant=True)

    def _children(self, succeeded: Collection[Key], unsuccessful: _Unsuccessful) -> _Children:
        """Return, by parent, the edges from these jobs and from the blocked descendants of the unsuccessful."""
        below = (
            self._db.rows("id", "FROM below", unsuccessful, "edge.parent", _BELOW)
            if unsuccessful
            else []
        )
        parents = [*succeeded, *unsuccessful, *(key for (key,) in below)]
        children: _Children = defaultdict(list)
        for parent, child, path in self._db.rows(
            "parent, child, result_path", f"FROM {EDGES} WHERE {{ids}}", parents, "parent"
        ):
            children[parent].append((child, path))
        return children

    def _write(self, unblocked: _ByCause, cancelled: _ByCause, reasons: dict[Key, str]) -> None:
        now = self._db.to_param(time.time())
        for root, keys in cancelled.items():
            by_parent = f"flags = flags | {Flag.CANCELLED_BY_PARENT}"
            changes = f"state = 'cancelled', finished_at = %s, reason = %s, {by_parent}"
            self._totals.end(State.CANCELLED, changes, "true", [now, reasons[root]], keys)
        for root, keys in unblocked.items():
            self._db.update(f"{_UNBLOCK}, input = %s", [now, json.dumps(reasons[root])], keys)
        if unblocked:
            self._db.notify()

    def _lock_blocked(self, keys: Collection[Key]) -> set[Key]:
        """Lock the blocked ones among these jobs and return them."""
        rows = self._db.lock_rows("id", "state = 'blocked'", keys) if keys else []
        return {key for (key,) in rows}

    def _reasons(self, unsuccessful: _Unsuccessful) -> dict[Key, str]:
        """Return, for each of these jobs, the reason why its dependents cannot run."""
        failed = [
            self._db.to_uuid(key) for key, row in unsuccessful.items() if row[1] == State.FAILED
        ]
        errors = last_errors(self._db.alias, failed)
        reasons = {}
        for key, (name, state, reason) in unsuccessful.items():
            id = self._db.to_uuid(key)
            cause = ": ".join(errors.get(id, ())) if state == State.FAILED else reason
            end = state if state == State.FAILED else f"was {state}"
            reasons[key] = f"{name} {id} {end}" + (f": {cause}" if cause else "")
        return reasons


def last_errors(alias: str, ids: Iterable[UUID]) -> dict[UUID, tuple[str, str]]:
    """Return the exception class and the message, cut, of the last error of each of these jobs."""
    errors, wanted = {}, list(ids)
    for start in range(0, len(wanted), 500):
        attempts = Attempt.objects.using(alias).filter(job_id__in=wanted[start : start + 500])
        for id, kind, message in attempts.order_by("pk").values_list(
            "job_id", "exception_class", "message"
        ):
            errors[id] = kind, message[:_MAX_MESSAGE]
    return errors
