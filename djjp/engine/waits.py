"""Waits: for how long ready jobs have waited, by queue, from the first jobs of each priority.

The row of a job has the time at which it became due only until its first claim. A job that was retried, rescued or
released, or that waited for a permit or for its parents, is ready since an unknown time: its id shows whether it
is still the first of its queue.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from djjp.engine.database import Database
from djjp.engine.rows import READY, TABLE, Key, stepping

#: The number of first jobs that are read of each queue and priority.
FIRST_JOBS = 10
#: The number of queues and priorities that are read.
MOST_LEVELS = 2000
#: The number of due scheduled jobs that are read.
MOST_DUE = 1000

# From one queue to the next, and from one priority to the next below it, each a step into the index.
_READY_IN = f"FROM {TABLE} {{hint}} WHERE {READY} AND {{of_queue}}"
_TOP = f"SELECT priority {_READY_IN} AND priority IS NOT NULL{{below}} ORDER BY queue, priority DESC, id LIMIT 1"
_FIRST = f"""{_READY_IN} AND priority = level.priority ORDER BY queue, priority DESC, id LIMIT"""
_LEVELS = f"""{stepping("queue", f"FROM {TABLE} WHERE {READY}")},
level(queue, priority) AS (SELECT found.queue, ({{top}}) FROM found WHERE found.queue IS NOT NULL
UNION ALL SELECT level.queue, ({{next}}) FROM level WHERE level.priority IS NOT NULL)
SELECT queue || '', (SELECT {{since}} FROM (
SELECT run_after, created_at, claim, limit_key, pipeline {{first}} {FIRST_JOBS}) AS head
WHERE claim = 0 AND limit_key IS NULL AND pipeline IS NULL),
(SELECT id {{first}} 1) FROM level WHERE priority IS NOT NULL LIMIT {MOST_LEVELS}"""

_SINCE = "min(CASE WHEN run_after > created_at THEN run_after ELSE created_at END)"

_DUE = f"""SELECT queue || '' FROM {TABLE} WHERE state = 'scheduled' AND run_after <= %s
ORDER BY run_after LIMIT {MOST_DUE}"""

_RUNNING = f"""SELECT queue, count(*) FROM (SELECT queue || '' AS queue FROM {TABLE}
WHERE state = 'running' LIMIT %s) AS held GROUP BY queue"""


class Wait(NamedTuple):
    """The first ready jobs of one priority of a queue.

    Attributes:
        since: the time since which one of them is due, if that is known.
        first: the job that is claimed next.
    """

    queue: str
    since: float | None
    first: Key


class Waits:
    """Read how long ready jobs have waited."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def first(self) -> list[Wait]:
        """Return the waits of all queues and priorities that have ready jobs, apart from suspects."""
        hint, of_queue = self._db.ready_queue_hint, self._db.of_queue
        at = {"hint": hint, "of_queue": of_queue.format("level.queue")}
        statement = _LEVELS.format(
            top=_TOP.format(hint=hint, of_queue=of_queue.format("found.queue"), below=""),
            next=_TOP.format(**at, below=" AND priority < level.priority"),
            first=_FIRST.format(**at),
            since=self._db.moment.format(_SINCE),
        )
        with self._db.planned(), self._db.connection.cursor() as cursor:
            cursor.execute(statement)
            rows = cursor.fetchall()
        return [Wait(queue, self._moment(at), id) for queue, at, id in rows]

    def _moment(self, value: Any) -> float | None:
        try:
            return None if value is None else self._db.to_seconds(value)
        except (AttributeError, TypeError, ValueError):  # a row by hand
            return None

    def names(self, firsts: Collection[Key]) -> list[tuple[str, str]]:
        """Return the queue and the name of each of these jobs that is still there."""
        rows = self._db.rows("queue, name", f"FROM {TABLE} WHERE {{ids}}", list(firsts))
        return [(str(queue), str(name)) for queue, name in rows]

    def running(self, most: int) -> dict[str, int]:
        """Return the number of jobs by queue among the first running jobs, up to `most` of all."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(_RUNNING, [most])
            return {str(queue): int(count) for queue, count in cursor.fetchall()}

    def due_queues(self, now: float) -> list[str]:
        """Return the queues of the scheduled jobs that are due and that no consumer has made ready."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(_DUE, [self._db.to_param(now)])
            return sorted({name for (name,) in cursor.fetchall()})

    def count(self, queues: Collection[str], most: int) -> dict[str, int]:
        """Return the number of ready jobs in each of these queues, up to `most`."""
        if not queues:
            return {}
        of_queue = self._db.of_queue.format("listed.name")
        counted = f"""(SELECT count(*) FROM (SELECT 1 FROM {TABLE} {self._db.ready_queue_hint}
WHERE {READY} AND {of_queue} ORDER BY queue, priority DESC, id LIMIT {most}) AS few)"""
        rows = self._db.rows(
            "name, jobs",
            f"FROM (SELECT listed.name AS name, {counted} AS jobs FROM {self._db.listed('name')}) AS each",
            sorted(queues),
        )
        return {str(name): int(jobs) for name, jobs in rows}


def queues_of(heads: Sequence[Wait]) -> list[str] | None:
    """Return the queues that have ready jobs; None if they are too many for all to be read."""
    return sorted({wait.queue for wait in heads}) if len(heads) < MOST_LEVELS else None


def since(heads: Iterable[Wait]) -> dict[str, float]:
    """Return, by queue, since when the ready job that was due first is due, where that is known."""
    found: dict[str, float] = {}
    for wait in heads:
        if wait.since is not None:
            found[wait.queue] = min(wait.since, found.get(wait.queue, wait.since))
    return found
