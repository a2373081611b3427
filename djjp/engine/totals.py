"""Totals: the ends of jobs, counted in the transactions that end them.

A statement that ends jobs is followed by an entry in the same transaction, a row of its own in
`djjp_total_entry`; maintenance adds the entries to the rows of `djjp_total`: see `djjp.engine.history`. So
what is rolled back counts nothing, what is committed counts once, also where the answer of the commit is lost,
and no row is contended.

The figures of an entry are JSON text: by kind, queue and name either a number of ends, or a list with two whole
numbers for each attempt, its waiting time, or null, and its running time, in units of 2^-20 s. They
are counted by their powers of two later, many entries at once, which costs less than to do it in each turn.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Any
from uuid import UUID

from djjp.engine.database import Database
from djjp.engine.records import AS_ASKED, RUN_AGAIN, Claimed, Entry, Fenced, Outcome
from djjp.engine.rows import APPEND, TABLE, Key
from djjp.ids import MILLISECONDS
from djjp.models import Flag, State

#: The kinds of figures: the columns of a total.
KINDS = ("succeeded", "failed", "retried", "cancelled", "rescued", "late")
#: The number of units in a second in which durations are written.
PER_SECOND = float(1 << 20)

#: Figures by queue and name.
ByName = dict[str, dict[str, Any]]

_FOLLOWS = Flag.FOLLOWS
_ALL_SUCCEEDED = {State.SUCCEEDED}
_encode = json.JSONEncoder(separators=(",", ":")).encode

# Jobs that stand for nothing that a user has enqueued. The one that expands counts if it does not succeed:
# then it has the reason why its members are missing.
_UNLISTED = Flag.UNLISTED | Flag.COLLECTS
_UNCOUNTED = dict.fromkeys(KINDS, _UNLISTED | Flag.EXPANDS) | {
    "failed": _UNLISTED,
    "cancelled": _UNLISTED,
}


class Totals:
    """Count the ends of jobs: every statement that ends jobs is made by `end`, or followed by another verb."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def entry_of(self, outcomes: Sequence[Outcome], states: set[State]) -> Entry | None:
        """Return the entry of outcomes that are written as asked: the fence appends it then.

        Args:
            states: those of the outcomes.
        """
        if states != _ALL_SUCCEEDED:
            return _entry(_figures(outcomes, AS_ASKED))
        return _entry({"succeeded": _times(outcomes, _UNCOUNTED["succeeded"])})

    def finished(self, outcomes: Sequence[Outcome], fenced: Fenced) -> None:
        """Count outcomes that were not all written as asked."""
        self._append(_figures(outcomes, fenced))

    def count(self, kind: str, jobs: Iterable[Sequence[Any]]) -> None:
        """Count ends of which no times are known, by the queue, the name and the flags of each job."""
        self._append({kind: _counts(kind, jobs)})

    def count_rows(self, kind: str, ids: Iterable[UUID]) -> None:
        """Count ends of these jobs, of which the caller knows no more than the ids."""
        rest = f"FROM {TABLE} WHERE {{ids}}"
        self.count(kind, self._db.rows("queue, name, flags", rest, self._db.keys(ids)))

    def end(
        self, state: State, changes: str, condition: str, values: list[Any], keys: Iterable[Key]
    ) -> int:
        """Change those of these jobs that meet a condition, count the ones that are in `state` then.

        Returns:
            The number of the jobs that were changed.
        """
        rows = self._db.update_returning(
            "queue, name, flags, state", changes, condition, values, keys
        )
        self.count(state, [row[:3] for row in rows if row[3] == state])
        return len(rows)

    def _append(self, figures: Mapping[str, ByName]) -> None:
        if (entry := _entry(figures)) is not None:
            with self._db.connection.cursor() as cursor:
                cursor.execute(APPEND, entry)


def _entry(figures: Mapping[str, ByName]) -> Entry | None:
    figures = {kind: by_name for kind, by_name in figures.items() if by_name}
    return (int(time.time()) // 60 * 60, _encode(figures)) if figures else None


def _figures(outcomes: Sequence[Outcome], fenced: Fenced) -> dict[str, ByName]:
    kinds: defaultdict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        kinds[_kind(outcome, fenced)].append(outcome)
    late = [outcome.claimed for outcome in kinds.pop("late", ())]
    figures = {kind: _times(each, _UNCOUNTED[kind]) for kind, each in kinds.items()}
    return figures | {"late": _counts("late", ((job.queue, job.name, job.flags) for job in late))}


def _kind(outcome: Outcome, fenced: Fenced) -> str:
    key, state = outcome.claimed.key, outcome.state
    if key in fenced.refused:
        return "late"
    if key in fenced.cancelled:
        return "cancelled"
    return "retried" if state in RUN_AGAIN else state.value


def _times(outcomes: Iterable[Outcome], uncounted: int) -> ByName:
    """Return the waiting and running times of attempts.

    It runs for each job, in a turn of thousands: hence no call for a plain job, and tuples that are unpacked,
    which takes a third of the time of their attributes.
    """
    queues: ByName = {}
    last_queue = last_name = None
    times: list[int | None] = []
    for job, _, began, ended, _, _, _, _ in outcomes:
        id, name, _, _, _, flags, claim, queue, created, due, _, _, _ = job
        if flags & uncounted:
            continue
        if flags & _FOLLOWS:  # it is due by the end of others, which no row has
            waited = None
        elif flags or claim != 1 or due is not None:
            waited = _waited(job, began)
        elif isinstance(created, float) and -inf < created < inf:
            waited = int((began - created) * PER_SECOND)
        else:  # SQLite's text takes longer to read, and is the same time; a row by hand can have an infinite one
            waited = int((began - (id.int >> MILLISECONDS) / 1000) * PER_SECOND)
        if name != last_name or queue != last_queue:
            last_queue, last_name = queue, name
            times = queues.setdefault(queue, {}).setdefault(name, [])
        times.append(waited)
        times.append(int((ended - began) * PER_SECOND))
    return queues


def _waited(job: Claimed, began: float) -> int | None:
    """Return how long a job waited for its first start."""
    waited = job.waited(began)
    return None if waited is None else int(waited * PER_SECOND)


def _counts(kind: str, jobs: Iterable[Sequence[Any]]) -> ByName:
    queues: ByName = {}
    for queue, name, flags in jobs:
        if isinstance(flags, int) and flags & _UNCOUNTED[kind]:
            continue
        names = queues.setdefault(str(queue), {})
        names[str(name)] = names.get(str(name), 0) + 1
    return queues
