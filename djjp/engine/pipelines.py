"""Pipelines: what becomes of the jobs that wait for others, once those have ended.

The graph is rows: each job of a pipeline is there from the start, `blocked`, with the number of those it
waits for (`waits_for`), and each edge is a `Dependency`. What holds:

* The end of a job and what follows from it are one transaction, behind one fence. A late outcome, which
  the fence refuses, lets nothing go; an end that is written lets go once.
* A job runs when all that it waits for have succeeded. When one of them has not, it is cancelled at once,
  with what waits for it in turn; so nothing waits for what will never come.
* An `on_failure` job is the other way round: it runs when one of those that it waits for does not
  succeed, and is cancelled when all have.
* What a job receives is not copied: it is read in its parents' rows when it is claimed.

Rows are locked in the order of their ids, in which a pipeline's parents come before its children.
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

#: Why an `on_failure` job was cancelled.
NOT_NEEDED = "nothing failed"

# What is quoted of an error's message.
_MAX_MESSAGE = 1000

_ENDED = f"""FROM {TABLE} WHERE {{ids}} AND flags & {Flag.HAS_DEPENDENTS} <> 0
AND state IN ('succeeded', 'failed', 'cancelled')"""

# A union: a job that is reached along many ways is followed once.
_BELOW = f"""WITH RECURSIVE below(id) AS (
SELECT edge.child FROM {EDGES} AS edge {{join}} {TABLE} AS job ON job.id = edge.child
WHERE {{ids}} AND job.state = 'blocked'
UNION SELECT edge.child FROM below {{join}} {EDGES} AS edge ON edge.parent = below.id
{{join}} {TABLE} AS job ON job.id = edge.child WHERE job.state = 'blocked')"""

_LAST = "job.waits_for <= arriving.count"
_NOT_NEEDED = f"{_LAST} AND job.flags & {Flag.ON_FAILURE} <> 0"
#: What becomes of jobs of which `arriving.count` parents have succeeded; it takes the time twice.
ARRIVED = f"""waits_for = CASE WHEN {_LAST} THEN 0 ELSE job.waits_for - arriving.count END,
state = CASE WHEN NOT ({_LAST}) THEN 'blocked' WHEN {_NOT_NEEDED} THEN 'cancelled'
        WHEN job.run_after > %s THEN 'scheduled' ELSE 'ready' END,
finished_at = CASE WHEN {_NOT_NEEDED} THEN %s ELSE job.finished_at END,
reason = CASE WHEN {_NOT_NEEDED} THEN '{NOT_NEEDED}' ELSE job.reason END,
flags = CASE WHEN {_NOT_NEEDED} THEN job.flags | {Flag.CANCELLED_BY_PARENT} ELSE job.flags END"""

_OPEN = """state = CASE WHEN run_after > %s THEN 'scheduled' ELSE 'ready' END, waits_for = 0"""

_Children = defaultdict[Key, list[tuple[Key, str]]]
_ByText = defaultdict[str, list[Key]]


class Pipelines:
    """Enqueue pipelines, and let their ends take effect."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # Enqueue

    def enqueue(self, graph: NewGraph) -> None:
        """Write the jobs of a pipeline and their edges, all or none of them."""

        def write() -> None:
            with self._db.transaction():
                self._db.insert_whole(graph.jobs)
                self._db.insert_edges(graph.edges)
                self._db.notify()

        self._db.with_retry(write)

    # What an end lets go

    def resolve_dependents(self, ids: Collection[UUID], succeeded: Collection[UUID] = ()) -> None:
        """Let go what waits for these jobs, as far as they have ended.

        It belongs in the transaction of their end: whoever writes one calls it, and this is the one place
        where it is seen to.

        Args:
            succeeded: others, of which it is known that they have succeeded.
        """
        ended = self._db.rows("id, name, state, reason", _ENDED, self._db.keys(ids)) if ids else []
        good = {*self._db.keys(succeeded), *(row[0] for row in ended if row[2] == State.SUCCEEDED)}
        bad = {row[0]: row[1:] for row in ended if row[2] != State.SUCCEEDED}
        if good or bad:
            self._propagate(good, bad)

    def cancel_dependents(self, ids: Collection[UUID]) -> None:
        """Cancel what waits for these jobs, for they are about to be deleted, and delete their edges."""
        rest = f"FROM {TABLE} WHERE {{ids}} AND pipeline IS NOT NULL"
        steps = self._db.rows("id, name", rest, self._db.keys(ids)) if ids else []
        if steps:
            gone = {key: (name, "deleted", None) for key, name in steps}
            self._propagate(set(), gone)
            self.delete_edges([self._db.to_uuid(key) for key in gone])

    def delete_edges(self, ids: Collection[UUID]) -> None:
        with self._db.connection.cursor() as cursor:
            for end in ("parent", "child"):
                statement = f"DELETE FROM {EDGES} WHERE {self._db.in_ids(end)}"
                cursor.execute(statement, [self._db.id_list(ids)])

    def _propagate(self, good: Collection[Key], bad: Mapping[Key, Any]) -> None:
        if bad:
            self._cancel_descendants(good, bad)
        if good:
            self._db.count_down(good)

    def _cancel_descendants(self, good: Collection[Key], bad: Mapping[Key, Any]) -> None:
        """Cancel what waits for the bad ones, and open what waits for them to fail."""
        children = self._children(good, bad)
        # Also those of the good ones, which are counted down next: all rows are locked at once, in one order.
        waiting = self._waiting({child for pairs in children.values() for child, _ in pairs})
        opened: _ByText = defaultdict(list)  # by what they are handed
        cancelled: _ByText = defaultdict(list)  # by the reason
        met: set[Key] = set()
        for root, reason in self._reasons(bad).items():
            ways = [root]
            while ways:
                for child, place in children[ways.pop()]:
                    if child not in waiting or child in met:
                        continue
                    met.add(child)
                    if place == ON_FAILURE:
                        opened[reason].append(child)
                    else:
                        cancelled[reason].append(child)
                        ways.append(child)
        self._record(opened, cancelled)

    def _children(self, good: Collection[Key], bad: Mapping[Key, Any]) -> _Children:
        """The edges from these jobs, and from all that is blocked below the bad ones, by parent."""
        below = self._db.rows("id", "FROM below", bad, "edge.parent", _BELOW) if bad else []
        ends = [*good, *bad, *(key for (key,) in below)]
        children: _Children = defaultdict(list)
        for parent, child, place in self._db.rows(
            "parent, child, result_path", f"FROM {EDGES} WHERE {{ids}}", ends, "parent"
        ):
            children[parent].append((child, place))
        return children

    def _record(self, opened: _ByText, cancelled: _ByText) -> None:
        now = self._db.to_param(time.time())
        for reason, keys in cancelled.items():
            swept = f"flags = flags | {Flag.CANCELLED_BY_PARENT}"
            changes = f"state = 'cancelled', finished_at = %s, reason = %s, {swept}"
            self._db.update(changes, [now, reason], keys)
        for handed, keys in opened.items():
            self._db.update(f"{_OPEN}, input = %s", [now, json.dumps(handed)], keys)
        if opened:
            self._db.notify()

    def _waiting(self, keys: Collection[Key]) -> set[Key]:
        """Those of these jobs that are blocked, locked."""
        rows = self._db.lock_rows("id", "state = 'blocked'", keys) if keys else []
        return {key for (key,) in rows}

    def _reasons(self, bad: Mapping[Key, Any]) -> dict[Key, str]:
        """Why what waits for each of these jobs cannot run."""
        failed = [self._db.to_uuid(key) for key, row in bad.items() if row[1] == State.FAILED]
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
        for key, (name, state, reason) in bad.items():
            id = self._db.to_uuid(key)
            said = errors.get(id) if state == State.FAILED else reason
            done = state if state == State.FAILED else f"was {state}"
            reasons[key] = f"{name} {id} {done}" + (f": {said}" if said else "")
        return reasons

    # Inputs

    def last_jobs(self, pipeline: UUID) -> list[UUID]:
        """The last jobs of a pipeline: the one that has its id, or the members of its last group."""
        rows = self._db.rows(
            "parent",
            f"FROM {EDGES} WHERE {{ids}} AND result_path <> '{ON_FAILURE}'",
            self._db.keys([pipeline]),
            "child",
        )
        found = self._db.rows("id", f"FROM {TABLE} WHERE {{ids}}", self._db.keys([pipeline]))
        return [self._db.to_uuid(id) for (id,) in found or rows]

    def with_inputs(self, jobs: list[Claimed]) -> list[Claimed]:
        """Claimed jobs, those that receive something with it."""
        receiving = [job for job in jobs if job.flags & Flag.TAKES_INPUT]
        if not receiving:
            return jobs
        told = [job.id for job in receiving if job.flags & Flag.ON_FAILURE]
        texts = self._results([job.id for job in receiving if not job.flags & Flag.ON_FAILURE])
        if told:
            rows = self._db.rows("id, input", f"FROM {TABLE} WHERE {{ids}}", self._db.keys(told))
            texts.update((self._db.to_uuid(key), text) for key, text in rows)
        return [
            job._replace(input=texts.get(job.id)) if job.flags & Flag.TAKES_INPUT else job
            for job in jobs
        ]

    def results(self, id: UUID) -> str | None:
        """What comes together at a job, or at a pipeline's own id; None when a part of it is not there."""
        return self._results([id]).get(id)

    def _results(self, ids: Collection[UUID]) -> dict[UUID, str]:
        """By child, the results of its parents; a child is left out when one of them is not there."""
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
        for child, parent, place in edges:
            pieces[child].append((place, texts.get(parent)))
        return {
            self._db.to_uuid(child): nest(got)  # type: ignore[arg-type]  # none of them is None
            for child, got in pieces.items()
            if all(text is not None for _, text in got)
        }


def nest(pieces: Iterable[tuple[str, str]]) -> str:
    """JSON texts as one: that of the place "" as it is, others in lists that are nested as their places say."""
    lists: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for place, text in pieces:
        if not place:
            return text
        head, _, rest = place.partition("/")
        lists[int(head)].append((rest, text))
    return f"[{','.join(nest(lists[index]) for index in sorted(lists))}]"
