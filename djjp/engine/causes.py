"""Causes: the jobs because of which a job of a pipeline has no result."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import NamedTuple
from uuid import UUID

from djjp.engine.database import Database
from djjp.engine.pipelines import EDGES, last_errors
from djjp.engine.result_paths import NEEDS_SUCCESS
from djjp.engine.rows import TABLE, Key
from djjp.exceptions import JobCancelled, JobFailed, JobNotFinished
from djjp.models import Flag, State

# From each job, which is its own first step, up to the parents without whose success it could not run.
_ABOVE = f"""WITH RECURSIVE above(start, id) AS (
SELECT id, id FROM {TABLE} WHERE {{ids}} AND state IN ('failed', 'cancelled')
UNION SELECT above.start, upper.id FROM above {{join}} {TABLE} AS lower ON lower.id = above.id
{{join}} {EDGES} AS edge ON edge.child = lower.id {{join}} {TABLE} AS upper ON upper.id = edge.parent
WHERE lower.flags & {Flag.CANCELLED_BY_PARENT} <> 0 AND {NEEDS_SUCCESS}
AND upper.state IN ('failed', 'cancelled'))"""
_ROOTS = f"""FROM above {{join}} {TABLE} AS job ON job.id = above.id
WHERE job.flags & {Flag.CANCELLED_BY_PARENT} = 0"""

_UNSUCCESSFUL = f"FROM {TABLE} WHERE {{ids}} AND state IN ('failed', 'cancelled')"
_ENDS = f"""FROM {EDGES} AS edge {{join}} {TABLE} AS job ON job.id = edge.parent
WHERE {{ids}} AND {NEEDS_SUCCESS} AND job.state IN ('failed', 'cancelled')"""


class Cause(NamedTuple):
    """A job that failed, or was cancelled on its own, and so left others without a result."""

    id: UUID
    state: State
    reason: str | None


class Causes:
    """Find the causes of missing results."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def of_pipeline(self, pipeline: UUID) -> list[Cause]:
        """Return the causes because of which a pipeline has no result, the failed ones first."""
        keys = self._db.keys([pipeline])
        # The last job has the pipeline's id; of a last group, the edges lead to that id.
        ends = [*keys, *(key for (key,) in self._db.rows("edge.parent", _ENDS, keys, "edge.child"))]
        causes = {cause.id: cause for found in self._of(ends).values() for cause in found}
        return sorted(causes.values(), key=lambda cause: cause.state != State.FAILED)

    def reasons(self, keys: Collection[Key]) -> dict[Key, JobNotFinished]:
        """Return, for each of these jobs that did not succeed, the exception that stands for its result."""
        if not keys:
            return {}
        first = {key: _first(causes) for key, causes in self._of(keys).items()}
        failed = {cause.id for cause in first.values() if cause.state == State.FAILED}
        errors = last_errors(self._db.alias, failed)
        reasons: dict[Key, JobNotFinished] = {}
        for key, cause in first.items():
            if cause.state == State.FAILED:
                reasons[key] = JobFailed(cause.id, *errors.get(cause.id, ("", "")), "")
            else:
                reasons[key] = JobCancelled(cause.id, cause.reason)
        return reasons

    def _of(self, keys: Collection[Key]) -> dict[Key, list[Cause]]:
        """Return the causes of each of these jobs that did not succeed, ordered by their ends."""
        columns = "above.start, job.id, job.state, job.reason, job.finished_at"
        rows = self._db.rows(columns, _ROOTS, keys, "id", _ABOVE)
        found: dict[Key, list[Cause]] = defaultdict(list)
        for start, id, state, reason, _ in sorted(rows, key=lambda row: (str(row[4]), str(row[1]))):
            found[start].append(Cause(self._db.to_uuid(id), State(state), reason))
        # The cause of these was deleted: their own rows have the reason.
        if orphaned := [key for key in keys if key not in found]:
            for id, state, reason in self._db.rows("id, state, reason", _UNSUCCESSFUL, orphaned):
                found[id].append(Cause(self._db.to_uuid(id), State(state), reason))
        return found


def _first(causes: list[Cause]) -> Cause:
    return next((cause for cause in causes if cause.state == State.FAILED), causes[0])
