"""Holding: the limits and consumers none of whose permits or slots has become free for long, and what holds them.

The keys are those of the running jobs, which are few, and not those of the blocked ones. Each verb reads a bounded
number of rows, by the index of jobs under limits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple
from uuid import UUID

from djjp.engine.database import Database
from djjp.engine.rows import TABLE, stepping

#: The number of keys, of running jobs of a key, and of queues of its blocked jobs that are read.
MOST_KEYS, MOST_HOLDERS, MOST_QUEUES = 1000, 1000, 100
#: The number of first blocked jobs of a queue whose times are read.
FIRST_JOBS = 20
#: The number at which a count of blocked jobs ends.
MOST_COUNTED = 101

_RUNNING = "waits_for = 0 AND state = 'running'"
_KEYS = f"""{stepping("limit_key", f"FROM {TABLE} WHERE limit_key IS NOT NULL AND {_RUNNING}")}
SELECT limit_key || '' FROM found WHERE limit_key IS NOT NULL LIMIT {MOST_KEYS}"""

# `>= key AND <= key`: see `limits`.
_OF_KEY = "limit_key >= {key} AND limit_key <= {key}"
_ORDER = "ORDER BY limit_key, queue, priority DESC, id"
_HOLDERS = f"""FROM (SELECT id, name, consumer, started_at, cancel_requested FROM {TABLE}
WHERE {_OF_KEY} AND {_RUNNING} AND limit_per IS NULL {_ORDER} LIMIT {MOST_HOLDERS}) AS holders"""
_MAX = f"""(SELECT max(limit_max + 0) FROM (SELECT limit_max FROM {TABLE}
WHERE limit_key = key AND waits_for = 0 AND state = 'blocked' LIMIT 100) AS waiting)"""
_FULL = f"""FROM (SELECT key, {_MAX} AS most, (SELECT count(*) {{holders}}) AS held,
(SELECT {{newest}} {{holders}}) AS newest FROM {{keys}}) AS each WHERE held >= most"""
_LONGEST = f"""SELECT id, name || '', consumer || '', {{started}}, cancel_requested {_HOLDERS.format(key="%s")}
ORDER BY started_at LIMIT 1"""

_BLOCKED = f"FROM {TABLE} WHERE limit_key = %s AND waits_for = 0 AND state = 'blocked'"
_IN_QUEUE = f"{_BLOCKED} AND queue = found.queue ORDER BY queue, priority DESC, id LIMIT"
_WAITING = f"""{stepping("queue", _BLOCKED)} SELECT queue || '',
(SELECT {{due}} FROM (SELECT run_after, created_at {_IN_QUEUE} {FIRST_JOBS}) AS head),
(SELECT count(*) FROM (SELECT 1 AS one {_IN_QUEUE} {MOST_COUNTED}) AS few)
FROM found WHERE queue IS NOT NULL LIMIT {MOST_QUEUES}"""
_DUE = "min(CASE WHEN run_after > created_at THEN run_after ELSE created_at END)"

# By the index of running jobs, which are few.
_OLD = f"FROM {TABLE} WHERE state = 'running' AND consumer IS NOT NULL AND started_at < %s"
_OLD_JOBS = f"""SELECT id, name || '', consumer || '', {{started}}, cancel_requested {_OLD}
ORDER BY started_at, priority DESC, id LIMIT {MOST_HOLDERS}"""


class Full(NamedTuple):
    """A limit that blocks jobs, and all of whose permits are held.

    Attributes:
        permits: their number.
        since: when the last of them was given.
    """

    key: str
    permits: int
    since: float


class Holder(NamedTuple):
    """A job that has held a permit or a slot for long.

    Attributes:
        since: when it started.
        is_cancelled: whether its cancellation was requested.
    """

    id: UUID
    name: str
    consumer: str
    since: float
    is_cancelled: bool


class Blocked(NamedTuple):
    """The jobs of a queue that wait for a permit.

    Attributes:
        due: when the first of them was due.
        jobs: their number, up to `MOST_COUNTED`.
    """

    queue: str
    due: float
    jobs: int


class Holding:
    """Find the limits whose permits are held for long."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def full(self, before: float) -> list[Full]:
        """Return the limits that block jobs and have given no permit since a time, the longest first."""
        keys = [key for (key,) in self._fetch(_KEYS, []) if isinstance(key, str)]
        if not keys:
            return []
        statement = _FULL.format(
            holders=_HOLDERS.format(key="key"),
            newest=self._db.moment.format("max(started_at)"),
            keys=self._db.listed("key"),
        )
        found = []
        for key, most, newest in self._db.rows("key, most, newest", statement, keys):
            since = self._moment(newest)
            if since is not None and since < before:
                found.append(Full(str(key), int(most), since))
        return sorted(found, key=lambda each: each.since)

    def holder(self, key: str) -> Holder | None:
        """Return the job that has held a permit of a limit for longest; None if none is held any more."""
        statement = _LONGEST.format(started=self._db.moment.format("started_at"))
        return next(self._holders(statement, [key, key]), None)

    def old(self, before: float) -> list[Holder]:
        """Return the jobs that have run since before a time, the oldest first.

        Of those of one consumer the first ones hold its slots, and it has claimed the others ahead.
        """
        statement = _OLD_JOBS.format(started=self._db.moment.format("started_at"))
        return list(self._holders(statement, [self._db.to_param(before)]))

    def _holders(self, statement: str, values: Collection[Any]) -> Iterator[Holder]:
        for key, name, consumer, started, cancelled in self._fetch(statement, values):
            since, id = self._moment(started), self._db.to_id(key)
            if since is not None and id is not None:
                place = "" if consumer is None else str(consumer)
                yield Holder(id, str(name), place, since, bool(cancelled))

    def blocked(self, key: str) -> list[Blocked]:
        """Return the jobs that wait for a permit of a limit, by queue."""
        statement = _WAITING.format(due=self._db.moment.format(_DUE))
        found = []
        for queue, due, count in self._fetch(statement, [key] * 4):
            since = self._moment(due)
            if since is not None:
                found.append(Blocked(str(queue), since, int(count)))
        return found

    def _fetch(self, statement: str, values: Collection[Any]) -> list[tuple[Any, ...]]:
        with self._db.connection.cursor() as cursor:
            cursor.execute(statement, list(values))
            return list(cursor.fetchall())

    def _moment(self, value: Any) -> float | None:
        try:
            return None if value is None else self._db.to_seconds(value)
        except (AttributeError, TypeError, ValueError):  # a row by hand
            return None
