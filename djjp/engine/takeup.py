"""Taking up again: what a retried job means for the jobs above and below it in its pipeline.

Above: what it waits for has to succeed first, so those of them that have not are retried too. Below:
what was cancelled because of it waits again, unless another job that it waits for has failed as well;
and what had been let go by it and has not begun waits for it anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from uuid import UUID

from djjp.engine.database import TABLE
from djjp.engine.pipelines import EDGES, Graph, Key
from djjp.engine.records import ON_FAILURE
from djjp.models import Flag, State

#: What makes of a row one that never ran.
FRESH = (
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

_LOST = (State.FAILED, State.CANCELLED)


class TakeUp(Graph):
    """What `retry` needs of a pipeline."""

    def _steps(self, ids: Collection[Key]) -> set[Key]:
        """Those of these jobs that have ended and are part of a pipeline."""
        rest = (
            f"FROM {TABLE} WHERE {{ids}} AND pipeline IS NOT NULL"
            " AND state IN ('succeeded', 'failed', 'cancelled')"
        )
        return {id for (id,) in self._rows("id", rest, ids)} if ids else set()

    def _above(self, steps: Collection[Key]) -> set[Key]:
        """What these wait for, directly or not, and what has not succeeded."""
        return {id for (id,) in self._rows("id", "FROM above", steps, "edge.child", _ABOVE)}

    def _below(self, steps: Collection[Key]) -> set[Key]:
        """What may have to wait for these anew."""
        return {id for (id,) in self._rows("id", "FROM below", steps, "edge.parent", _BELOW)}

    def _around(self, ids: Collection[UUID]) -> tuple[set[Key], set[Key]]:
        """The steps to retry for the sake of these jobs, and what is below; all of it locked."""
        keys = self._keys(ids)
        steps, below = self._seen(keys)
        if steps and self._locks:
            # Before it is judged: one that runs may be about to fail.
            parents = {parent for parent, *_ in self._parents(steps | below)}
            self._held("id", "true", steps | below | parents)
            steps, below = self._seen(keys)
        return steps, below

    def _seen(self, ids: Collection[Key]) -> tuple[set[Key], set[Key]]:
        steps = self._steps(ids)
        if not steps:
            return set(), set()
        steps |= self._above(steps)
        return steps, self._below(steps) - steps

    def _parents(self, ids: Collection[Key]) -> list[tuple[Key, Key, str, str]]:
        columns = "edge.parent, edge.child, edge.result_path, job.state"
        return [
            (parent, child, place, state)
            for parent, child, place, state in self._rows(columns, _PARENTS, ids, "edge.child")
        ]

    def _wait_again(self, steps: set[Key], below: set[Key]) -> None:
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
            if any(p not in again and states[p] in _LOST for p in parents[id]):
                again.discard(id)  # it would wait for ever
                continue
            count = sum(p in again or states[p] != State.SUCCEEDED for p in parents[id])
            if count:
                waits[count].append(id)
        for count, ids in waits.items():
            flags = f"flags = flags & ~{Flag.CANCELLED_BY_PARENT}"
            changes = f"state = 'blocked', waits_for = %s, input = NULL, {flags}"
            self._change(f"{changes}, {FRESH}", [count], ids)
