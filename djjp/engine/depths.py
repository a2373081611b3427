"""Depths: samples of the number of live jobs in each queue, once a minute.

The counts come from the partial indexes of live jobs, and end at `MOST`, so a sample takes a bounded time.
Ready jobs are counted queue by queue. Of all scheduled jobs, all blocked ones and all running ones the first
`MOST` are counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import ceil
from typing import Any, NamedTuple

from djjp.engine.database import Database
from djjp.engine.queues import Queues
from djjp.engine.rows import SUSPECT, TABLE
from djjp.engine.tiles import HOUR, KEPT
from djjp.engine.waits import Waits, queues_of
from djjp.engine.waits import since as waiting_since
from djjp.models import Depth, Span

#: The number at which a count ends: there are as many, or more.
MOST = 100_000
#: The states of live jobs, in the order of the columns.
STATES = ("ready", "scheduled", "blocked", "running")
#: The hours that one step of thinning looks at.
STEP_HOURS = 24

_DEPTHS = Depth._meta.db_table
# By `djjp_job_waiting`, whose condition has the one on `claim`.
_WAITING = "state = '{state}' AND claim >= 0"
_RUNNING = "state = 'running'"
_SUSPECTS = SUSPECT
_BY_QUEUE = f"""SELECT queue, count(*) FROM (
SELECT queue || '' AS queue FROM {TABLE} {{hint}} WHERE {{jobs}}) AS live GROUP BY queue"""

_COLUMNS = ("queue", "minute", "ready", "scheduled", "blocked", "running", "oldest_wait")
_INSERT = f"INSERT INTO {_DEPTHS} ({', '.join(_COLUMNS)}) VALUES {{rows}} ON CONFLICT DO NOTHING"
_ROW = f"({', '.join(['%s'] * len(_COLUMNS))})"
_ROWS_AT_ONCE = 500
_SINCE = f"""SELECT queue, {", ".join(("minute", *STATES))} FROM {_DEPTHS}
WHERE minute >= %s AND queue <> '' ORDER BY minute"""
_QUEUES_SINCE = f"SELECT DISTINCT queue || '' FROM {_DEPTHS} WHERE minute >= %s AND queue <> ''"
_IS_COUNTED = f"SELECT 1 FROM {_DEPTHS} WHERE queue = '' AND minute = %s"
_THIN = f"DELETE FROM {_DEPTHS} WHERE minute >= %s AND minute < %s AND minute %% {HOUR} <> 0"
_LAST_OLD = f"""SELECT max(minute) FROM (SELECT minute FROM {_DEPTHS}
WHERE minute < %s ORDER BY minute LIMIT 1000) AS old"""
_DELETE = f"DELETE FROM {_DEPTHS} WHERE minute <= %s"


class Live(NamedTuple):
    """The number of live jobs.

    Attributes:
        counts: by state and queue.
        most_ready: the number at which the count of the ready jobs of a queue has ended.
        incomplete: the states in which jobs of any queue can be left out, because their count has ended.
    """

    counts: dict[str, dict[str, int]]
    most_ready: int
    incomplete: set[str]


class Sample(NamedTuple):
    """The live jobs of a queue at the start of a minute."""

    minute: int
    ready: int
    scheduled: int
    blocked: int
    running: int


class Depths:
    """Take samples, read those of the last minutes, and delete old ones."""

    def __init__(self, db: Database, queues: Queues, waits: Waits) -> None:
        self._db = db
        self._queues = queues
        self._waits = waits

    def sample(self, minute: int, now: float) -> bool:
        """Write the sample of a minute, unless it is there; return whether it was written here."""
        if self._is_counted(minute):
            return False
        values: list[Any] = [("", minute, 0, 0, 0, 0, None), *self._counted(minute, now)]
        with self._db.transaction(), self._db.connection.cursor() as cursor:
            cursor.execute(_INSERT.format(rows=_ROW), values[0])
            if not cursor.rowcount:
                return False
            for start in range(1, len(values), _ROWS_AT_ONCE):
                part = values[start : start + _ROWS_AT_ONCE]
                rows = ", ".join([_ROW] * len(part))
                cursor.execute(_INSERT.format(rows=rows), [each for row in part for each in row])
        return True

    def _is_counted(self, minute: int) -> bool:
        with self._db.connection.cursor() as cursor:
            cursor.execute(_IS_COUNTED, [minute])
            return cursor.fetchone() is not None

    def _counted(self, minute: int, now: float) -> Iterator[tuple[Any, ...]]:
        """Return the rows of the queues with live jobs."""
        heads = self._waits.first()
        since, live = waiting_since(heads), self.live(MOST, with_ready=queues_of(heads)).counts
        ready, scheduled, blocked, running = (live[state] for state in STATES)
        for queue in sorted({*ready, *scheduled, *blocked, *running} - {""}):
            counts = [each.get(queue, 0) for each in (ready, scheduled, blocked, running)]
            wait_seconds = max(0.0, now - since[queue]) if queue in since else None
            yield (queue[:100], minute, *counts, wait_seconds)

    def samples(self, since: float) -> dict[str, list[Sample]]:
        """Return the samples since a time by queue, the oldest first; of very many queues, so without the ORM."""
        found: dict[str, list[Sample]] = {}
        with self._db.connection.cursor() as cursor:
            cursor.execute(_SINCE, [ceil(since)])
            for queue, *figures in cursor.fetchall():
                found.setdefault(queue, []).append(Sample(*figures))
        return found

    def queues(self, since: float) -> list[str]:
        """Return the queues that have had live jobs in a sample since a time."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(_QUEUES_SINCE, [ceil(since)])
            return [name for (name,) in cursor.fetchall()]

    def live(
        self,
        most: int,
        *,
        ready_together: int | None = None,
        with_ready: Sequence[str] | None = None,
    ) -> Live:
        """Return the number of live jobs now.

        Args:
            most: the number at which a count ends: of the ready jobs of a queue, and of all others of a state.
            ready_together: the number of ready jobs that are counted in all queues: of very many queues each one
                has an equal part of it. None for no such bound.
            with_ready: the queues that have ready jobs, if they are known.
        """
        queues = self._queues.with_ready() if with_ready is None else with_ready
        most_ready = most
        if ready_together is not None and queues:
            most_ready = min(most, max(1, ready_together // len(queues)))
        ready = defaultdict(int, self._waits.count(queues, most_ready))
        suspects: dict[str, int] = {}
        if self._queues.with_suspects():
            suspects = self._live(_SUSPECTS, "djjp_job_suspect", most)
        for queue, number in suspects.items():
            ready[queue] = min(most, ready[queue] + number)
        scheduled, blocked = (
            self._live(_WAITING.format(state=state), "djjp_job_waiting", most)
            for state in ("scheduled", "blocked")
        )
        running = self._live(_RUNNING, "djjp_job_running", most)
        together = (suspects, scheduled, blocked, running)
        return Live(
            dict(zip(STATES, (ready, scheduled, blocked, running), strict=True)),
            most_ready,
            {s for s, counts in zip(STATES, together, strict=True) if sum(counts.values()) >= most},
        )

    def _live(self, jobs: str, index: str, most: int) -> dict[str, int]:
        hint = self._db.index_hint.format(index)
        with self._db.connection.cursor() as cursor:
            cursor.execute(_BY_QUEUE.format(hint=hint, jobs=f"{jobs} LIMIT {most}"))
            return {str(queue): int(number) for queue, number in cursor.fetchall()}

    def thin(self, start: int, now: float) -> int:
        """Delete the samples between the hours, of some hours whose minutes are kept no longer.

        Args:
            start: the hour with which to begin.

        Returns:
            The hour with which the next step begins; the same one if nothing is due.
        """
        end = min(start + STEP_HOURS * HOUR, int(now - KEPT[Span.MINUTE]) // HOUR * HOUR)
        if end <= start:
            return start
        with self._db.connection.cursor() as cursor:
            cursor.execute(_THIN, [start, end])
        return end

    def prune(self, now: float) -> bool:
        """Delete some samples that are kept no longer; return whether there may be more."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(_LAST_OLD, [int(now - KEPT[Span.HOUR])])
            (last,) = cursor.fetchone()
            if last is not None:
                cursor.execute(_DELETE, [last])
        return last is not None


def first_hour(now: float) -> int:
    """Return the first hour of which samples are kept."""
    return int(now - KEPT[Span.HOUR]) // HOUR * HOUR
