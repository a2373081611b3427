"""Pipelines: the effect of a job's end on its dependents, and the inputs of jobs.

The graph is stored as rows: every job of a pipeline is enqueued at the start. A job with parents is
`blocked` and counts the parents that have not succeeded yet (`waits_for`); each edge is a `Dependency`.
The promises:

* The end of a job and its effect on the dependents are one transaction, behind one fence. A late outcome,
  which the fence refuses, has no effect on the dependents; an end that is written has its effect exactly once.
* A job runs when all its parents have succeeded. When a parent fails or is cancelled, the job is cancelled at
  once, together with its own dependents, so no job waits for an end that will never come.
* An `on_failure` job is the reverse: it runs when one of its parents does not succeed, and is cancelled
  when all of them have succeeded.
* A job's input is not copied: it is read from the rows of its parents when the job is claimed.

Rows are locked in the order of their ids, in which the parents of a pipeline come before their children.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any
from uuid import UUID

from djjp.engine.database import TABLE, Database, Key
from djjp.engine.records import ON_FAILURE, Claimed, NewGraph
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
flags = CASE WHEN {_IS_NOT_NEEDED} THEN job.flags | {Flag.CANCELLED_BY_PARENT} ELSE job.flags END"""

_UNBLOCK = """state = CASE WHEN run_after > %s THEN 'scheduled' ELSE 'ready' END, waits_for = 0"""

_Children = defaultdict[Key, list[tuple[Key, str]]]  # by parent: child and result path
_ByText = defaultdict[str, list[Key]]  # jobs by the text that is written to them
_Unsuccessful = Mapping[Key, Any]  # by job: its name, its end and its reason


class Pipelines:
    """Enqueue pipelines, resolve or cancel dependents, and collect inputs."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # Enqueue

    def enqueue(self, graph: NewGraph) -> None:
        """Write the jobs of a pipeline and their edges, all of them or none."""

        def write() -> None:
            with self._db.transaction():
                self._db.insert_whole(graph.jobs)
                self._db.insert_edges(graph.edges)
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
        unblocked: _ByText = defaultdict(list)  # by input
        cancelled: _ByText = defaultdict(list)  # by reason
        visited: set[Key] = set()
        for root, reason in self._reasons(unsuccessful).items():
            to_visit = [root]
            while to_visit:
                for child, path in children[to_visit.pop()]:
                    if child not in blocked or child in visited:
                        continue
                    visited.add(child)
                    if path == ON_FAILURE:
                        unblocked[reason].append(child)
                    else:
                        cancelled[reason].append(child)
                        to_visit.append(child)
        self._write(unblocked, cancelled)

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

    def _write(self, unblocked: _ByText, cancelled: _ByText) -> None:
        now = self._db.to_param(time.time())
        for reason, keys in cancelled.items():
            by_parent = f"flags = flags | {Flag.CANCELLED_BY_PARENT}"
            changes = f"state = 'cancelled', finished_at = %s, reason = %s, {by_parent}"
            self._db.update(changes, [now, reason], keys)
        for reason, keys in unblocked.items():
            self._db.update(f"{_UNBLOCK}, input = %s", [now, json.dumps(reason)], keys)
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
        errors: dict[UUID, str] = {}
        for start in range(0, len(failed), 500):
            attempts = Attempt.objects.using(self._db.alias).filter(
                job_id__in=failed[start : start + 500]
            )
            for id, kind, message in attempts.order_by("pk").values_list(
                "job_id", "exception_class", "message"
            ):
                errors[id] = f"{kind}: {message[:_MAX_MESSAGE]}"
        reasons = {}
        for key, (name, state, reason) in unsuccessful.items():
            id = self._db.to_uuid(key)
            cause = errors.get(id) if state == State.FAILED else reason
            end = state if state == State.FAILED else f"was {state}"
            reasons[key] = f"{name} {id} {end}" + (f": {cause}" if cause else "")
        return reasons

    # Inputs

    def last_jobs(self, pipeline: UUID) -> list[UUID]:
        """Return the last jobs of a pipeline: the job with the pipeline's id, or the members of its last group."""
        rows = self._db.rows(
            "parent",
            f"FROM {EDGES} WHERE {{ids}} AND result_path <> '{ON_FAILURE}'",
            self._db.keys([pipeline]),
            "child",
        )
        found = self._db.rows("id", f"FROM {TABLE} WHERE {{ids}}", self._db.keys([pipeline]))
        return [self._db.to_uuid(id) for (id,) in found or rows]

    def with_inputs(self, jobs: list[Claimed]) -> list[Claimed]:
        """Return the claimed jobs, with the input of those that take one."""
        taking = [job for job in jobs if job.flags & Flag.TAKES_INPUT]
        if not taking:
            return jobs
        on_failure = [job.id for job in taking if job.flags & Flag.ON_FAILURE]
        texts = self._results([job.id for job in taking if not job.flags & Flag.ON_FAILURE])
        if on_failure:
            rows = self._db.rows(
                "id, input", f"FROM {TABLE} WHERE {{ids}}", self._db.keys(on_failure)
            )
            texts.update((self._db.to_uuid(key), text) for key, text in rows)
        return [
            job._replace(input=texts.get(job.id)) if job.flags & Flag.TAKES_INPUT else job
            for job in jobs
        ]

    def results(self, id: UUID) -> str | None:
        """Return the nested results of the parents of a job, or of a pipeline's id; None when one is missing."""
        return self._results([id]).get(id)

    def _results(self, ids: Collection[UUID]) -> dict[UUID, str]:
        """Return the nested results of the parents by child, without the children that miss one of them."""
        if not ids:
            return {}
        edges = self._db.rows(
            "child, parent, result_path",
            f"FROM {EDGES} WHERE {{ids}} AND result_path <> '{ON_FAILURE}'",
            self._db.keys(ids),
            "child",
        )
        results = self._db.rows(
            "id, result",
            f"FROM {TABLE} WHERE {{ids}} AND state = 'succeeded'",
            {parent for _, parent, _ in edges},
        )
        texts: dict[Key, str] = dict(results)  # type: ignore[arg-type]  # pairs
        pieces: dict[Key, list[tuple[str, str | None]]] = defaultdict(list)
        for child, parent, path in edges:
            pieces[child].append((path, texts.get(parent)))
        return {
            self._db.to_uuid(child): nest(got)  # type: ignore[arg-type]  # none of them is None
            for child, got in pieces.items()
            if all(text is not None for _, text in got)
        }


def nest(pieces: Iterable[tuple[str, str]]) -> str:
    """Join JSON texts into one by their result paths.

    The text with the path "" is returned as it is; the others become lists, nested by the indexes in their paths.
    """
    lists: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for path, text in pieces:
        if not path:
            return text
        head, _, rest = path.partition("/")
        lists[int(head)].append((rest, text))
    return f"[{','.join(nest(lists[index]) for index in sorted(lists))}]"
