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
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from djjp.engine.database import TABLE, OnDatabase
from djjp.engine.records import ON_FAILURE, Edge, NewGraph, NewJob
from djjp.models import Attempt, Dependency, Flag, State

EDGES = Dependency._meta.db_table

#: Why an `on_failure` job was cancelled.
NOT_NEEDED = "nothing failed"

# What is quoted of an error's message.
_LONGEST = 1000

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

Key = Any
_Children = defaultdict[Key, list[tuple[Key, str]]]
_ByText = defaultdict[str, list[Key]]


class Graph(OnDatabase):
    """Verbs of pipelines."""

    #: How two tables are joined so that the first is read first.
    _join = "JOIN"
    #: Whether others may write at the same time, so that rows have to be locked.
    _locks = False
    #: What makes a SELECT take its rows, but for those that others hold.
    _skip_locked = ""

    # Enqueue

    def enqueue_graph(self, graph: NewGraph) -> None:
        """Write the jobs of a pipeline and their edges, all or none of them."""

        def write() -> None:
            with self.turn():
                self._insert_whole(graph.jobs)
                self._insert_edges(graph.edges)
                self.announce()

        self._patiently(write)

    @abstractmethod
    def _row(self, job: NewJob) -> tuple[Any, ...]:
        """A job's values in the order of `INSERT_COLUMNS`, without the constants."""

    def _more(self, job: NewJob) -> tuple[Any, ...]:
        """A job's values in the order of `MORE_COLUMNS`."""
        pipeline = None if job.pipeline is None else self._keys([job.pipeline])[0]
        expires = None if job.expires_at is None else self._stamp(job.expires_at)
        limit = job.limit_key, job.limit_max, job.limit_per
        return (pipeline, job.waits_for, job.unique_key, *limit, expires)

    @abstractmethod
    def _insert_whole(self, jobs: Sequence[NewJob]) -> None:
        """Insert jobs with all that they can have, but for those whose id or unique key is there."""

    @abstractmethod
    def _insert_edges(self, edges: Sequence[Edge]) -> None: ...

    def _patiently(self, work: Any) -> None:
        work()

    # What an end lets go

    def follow(self, ids: Collection[UUID], succeeded: Collection[UUID] = ()) -> None:
        """Let go what waits for these jobs, as far as they have ended.

        It belongs in the transaction of their end: whoever writes one calls it, and this is the one place
        where it is seen to.

        Args:
            succeeded: others, of which it is known that they have succeeded.
        """
        ended = self._rows("id, name, state, reason", _ENDED, self._keys(ids)) if ids else []
        good = {*self._keys(succeeded), *(row[0] for row in ended if row[2] == State.SUCCEEDED)}
        bad = {row[0]: row[1:] for row in ended if row[2] != State.SUCCEEDED}
        if good or bad:
            self._let_go(good, bad)

    def cut_off(self, ids: Collection[UUID]) -> None:
        """Cancel what waits for these jobs, for they are about to be deleted, and delete their edges."""
        rest = f"FROM {TABLE} WHERE {{ids}} AND pipeline IS NOT NULL"
        steps = self._rows("id, name", rest, self._keys(ids)) if ids else []
        if steps:
            gone = {key: (name, "deleted", None) for key, name in steps}
            self._let_go(set(), gone)
            self._delete_edges([self._uuid(key) for key in gone])

    def _delete_edges(self, ids: Collection[UUID]) -> None:
        with self.connection.cursor() as cursor:
            for end in ("parent", "child"):
                statement = f"DELETE FROM {EDGES} WHERE {self._within(end)}"
                cursor.execute(statement, [self._id_list(ids)])

    def _let_go(self, good: Collection[Key], bad: Mapping[Key, Any]) -> None:
        if bad:
            self._give_up(good, bad)
        if good:
            self._arrive(good)

    def _give_up(self, good: Collection[Key], bad: Mapping[Key, Any]) -> None:
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

    @abstractmethod
    def _arrive(self, good: Collection[Key]) -> None:
        """Count down what waits for jobs that have succeeded, by `ARRIVED`, and announce what may run now."""

    def _children(self, good: Collection[Key], bad: Mapping[Key, Any]) -> _Children:
        """The edges from these jobs, and from all that is blocked below the bad ones, by parent."""
        below = self._rows("id", "FROM below", bad, "edge.parent", _BELOW) if bad else []
        ends = [*good, *bad, *(key for (key,) in below)]
        children: _Children = defaultdict(list)
        for parent, child, place in self._rows(
            "parent, child, result_path", f"FROM {EDGES} WHERE {{ids}}", ends, "parent"
        ):
            children[parent].append((child, place))
        return children

    def _record(self, opened: _ByText, cancelled: _ByText) -> None:
        now = self._stamp(time.time())
        for reason, keys in cancelled.items():
            swept = f"flags = flags | {Flag.CANCELLED_BY_PARENT}"
            changes = f"state = 'cancelled', finished_at = %s, reason = %s, {swept}"
            self._change(changes, [now, reason], keys)
        for handed, keys in opened.items():
            self._change(f"{_OPEN}, input = %s", [now, json.dumps(handed)], keys)
        if opened:
            self.announce()

    def _change(self, changes: str, values: list[Any], keys: Collection[Key]) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE {TABLE} SET {changes} WHERE {self._within('id')}",
                [*values, self._key_list(keys)],
            )

    def _waiting(self, keys: Collection[Key]) -> set[Key]:
        """Those of these jobs that are blocked, locked."""
        rows = self._held("id", "state = 'blocked'", keys) if keys else []
        return {key for (key,) in rows}

    def _reasons(self, bad: Mapping[Key, Any]) -> dict[Key, str]:
        """Why what waits for each of these jobs cannot run."""
        failed = [self._uuid(key) for key, row in bad.items() if row[1] == State.FAILED]
        errors: dict[UUID, str] = {}
        for start in range(0, len(failed), 500):
            attempts = Attempt.objects.using(self.alias).filter(
                job_id__in=failed[start : start + 500]
            )
            for id, kind, message in attempts.order_by("pk").values_list(
                "job_id", "exception_class", "message"
            ):
                errors[id] = f"{kind}: {message[:_LONGEST]}"
        reasons = {}
        for key, (name, state, reason) in bad.items():
            id = self._uuid(key)
            said = errors.get(id) if state == State.FAILED else reason
            done = state if state == State.FAILED else f"was {state}"
            reasons[key] = f"{name} {id} {done}" + (f": {said}" if said else "")
        return reasons

    # How rows are read

    @abstractmethod
    def _listed(self, name: str) -> str:
        """What to select from for the texts in the one parameter, by a name."""

    def _rows(
        self,
        columns: str,
        rest: str,
        keys: Iterable[Key],
        column: str = "id",
        before: str = "",
    ) -> Sequence[Sequence[Any]]:
        """The rows of `{before} SELECT {columns} {rest}`, in which `{ids}` means that a column is among some."""
        statement = f"{before} {self._selected(columns)} {rest}"
        statement = statement.format(ids=self._within(column), join=self._join)
        with self.connection.cursor() as cursor:
            cursor.execute(statement, [self._key_list(keys)])
            return self._fetched(cursor)

    def _held(self, columns: str, condition: str, keys: Iterable[Key]) -> Sequence[Sequence[Any]]:
        """Those of these jobs that meet a condition, locked."""
        return self._rows(columns, f"FROM {TABLE} WHERE {{ids}} AND {condition}", keys)

    @abstractmethod
    def _keys(self, ids: Iterable[UUID]) -> list[Key]:
        """Ids as a cursor gives them, which is how they are kept here: a turn handles thousands."""

    @abstractmethod
    def _key_list(self, keys: Iterable[Key]) -> Any:
        """The one parameter of `_within` for such ids."""

    @abstractmethod
    def _uuid(self, value: object) -> UUID:
        """An id as a cursor gives it."""
