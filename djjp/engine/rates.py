"""Rates: how many jobs of a key start within a span of time.

Each start that counts is a row, until it no longer counts by the clock of the queue's database. A job over its
rate is `scheduled` for the time at which a permit should be free. A new job does not overtake the throttled
ones: it is throttled behind the last of them.

A job starts later than it is counted: first the transaction must commit. So its start counts from the latest
time at which it can still start, and the consumer that counted it starts it before that time or releases it.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from djjp.engine.database import TABLE, Database, Key
from djjp.engine.limits import BLOCK_BATCH, READY, READY_IN_ORDER, Candidate
from djjp.models import Flag, RateStart

STARTS = RateStart._meta.db_table

#: Seconds from the count of a start to the latest time at which the job can start; the start counts from there.
START_MARGIN = 0.05

#: The longest time, in seconds, for which a job is throttled: the due time must be a year that can be written.
MAX_DELAY = 3_650 * 86_400.0

# The key is given twice, as for the ready jobs of a key: see `limits`.
_THROTTLED = f"""FROM {TABLE} WHERE limit_key >= %s AND limit_key <= %s AND state = 'scheduled' AND attempts = 0
AND (flags & {Flag.THROTTLED}) > 0 ORDER BY"""
_FRESH = f"AND attempts = 0 AND (flags & {Flag.THROTTLED}) = 0"

_THROTTLE = f"state = 'scheduled', flags = flags | {Flag.THROTTLED}"
_THROTTLE_CLAIMED = f"{_THROTTLE}, consumer = NULL, started_at = NULL, attempts = attempts - 1"


class Rates:
    """Count the starts of jobs, and throttle the jobs over their rate."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def forget_starts(self, starts: Mapping[UUID, float]) -> None:
        """Delete the starts of jobs that were released before they started.

        Args:
            starts: the time until which each counts, from `Admission.admit`.
        """
        rows = self._db.rows("id, limit_key", f"FROM {TABLE} WHERE {{ids}}", self._db.keys(starts))
        for (key, until), count in Counter(
            (key, starts[self._db.to_uuid(id)]) for id, key in rows
        ).items():
            self._forget("WHERE key = %s AND until = %s", [key, until], count)

    def prune(self, limit: int) -> int:
        """Delete up to `limit` starts that no longer count; return their number."""
        now = self._db.clock()
        with self._db.connection.cursor() as cursor:
            cursor.execute(f"SELECT 1 FROM {STARTS} WHERE until <= %s LIMIT 1", [now])
            if cursor.fetchone() is None:
                return 0
        return self._forget("WHERE until <= %s", [now], limit)

    def _forget(self, rest: str, values: list[Any], limit: int) -> int:
        with self._db.transaction(), self._db.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT id FROM {STARTS} {rest} ORDER BY until LIMIT %s{self._db.skip_locked}",
                [*values, limit],
            )
            rows = [id for (id,) in cursor.fetchall()]
            if rows:
                cursor.execute(
                    f"DELETE FROM {STARTS} WHERE {self._db.in_ids('id')}", [self._db.key_list(rows)]
                )
        return len(rows)

    def count_starts(
        self, candidates: Sequence[Candidate], start_margin: float
    ) -> dict[Key, float]:
        """Count the starts that are due, and throttle the rest; return the time until which each start counts."""
        by_key: dict[str, list[Candidate]] = defaultdict(list)
        for each in candidates:
            by_key[each.key].append(each)
        starts: dict[Key, float] = {}
        for key, some in by_key.items():
            starts.update(self._throttle(key, some, start_margin))
        return starts

    def _throttle(
        self, key: str, candidates: Sequence[Candidate], start_margin: float
    ) -> dict[Key, float]:
        """Count the jobs of one key that can start now, and throttle the others."""
        max_starts, per, now = candidates[0].max_running, candidates[0].per or 0.0, self._db.clock()
        # `run_after` is by the consumers' clocks.
        shift = time.time() - now
        with self._db.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT until FROM {STARTS} WHERE key = %s AND until > %s ORDER BY until",
                [key, now],
            )
            running_until = [until for (until,) in cursor.fetchall()]
        last, tail = self._last(key)
        tail -= shift
        starts: dict[Key, float] = {}
        late: list[Candidate] = []
        for each in _has_waited(candidates, last):
            if len(running_until) + len(starts) < max_starts and (each.has_waited or tail <= now):
                starts[each.row] = now + start_margin + per
            else:
                late.append(each)
        if starts:
            running_until += starts.values()
            with self._db.connection.cursor() as cursor:
                cursor.executemany(
                    f"INSERT INTO {STARTS} (key, until) VALUES (%s, %s)",
                    [(key, until) for until in starts.values()],
                )
        if late:
            # The times at which the next permits become free, if all are in use.
            free = sorted(running_until)[-max_starts:] if len(running_until) >= max_starts else []
            others = _has_waited(self._other_ready(key, fresh_only=not free), last)
            due = _queue_up([*late, *others], now, tail, free, (per + START_MARGIN) / max_starts)
            due = {row: min(at, now + MAX_DELAY) + shift for row, at in due.items()}
            self._db.reschedule(_THROTTLE_CLAIMED, [(each.row, due[each.row]) for each in late])
            if others:
                self._db.reschedule(_THROTTLE, [(each.row, due[each.row]) for each in others])
        return starts

    def _last(self, key: str) -> tuple[Key | None, float]:
        """Return the last throttled job and the time for which it is scheduled; None and 0 if there is none."""
        with self._db.connection.cursor() as cursor:
            # As an expression, because a driver would convert the column to its type.
            cursor.execute(
                f"SELECT id, coalesce(run_after, NULL) {_THROTTLED} limit_key DESC, run_after DESC LIMIT 1",
                [key, key],
            )
            found = cursor.fetchone()
        return (None, 0.0) if found is None else (found[0], self._db.to_seconds(found[1]))

    def _other_ready(self, key: str, *, fresh_only: bool) -> list[Candidate]:
        """Return ready jobs that a claim would only throttle too."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT id, limit_max, limit_per, queue, priority, attempts, flags {READY}"
                f" AND limit_per IS NOT NULL {_FRESH if fresh_only else ''} {READY_IN_ORDER}"
                f"{self._db.skip_locked}",
                [key, key, BLOCK_BATCH],
            )
            rows = cursor.fetchall()
        return [
            Candidate._make([id, key, *rest, attempts > 0 or flags & Flag.THROTTLED > 0])
            for id, *rest, attempts, flags in rows
        ]


def _has_waited(candidates: Sequence[Candidate], last: Key | None) -> list[Candidate]:
    """Return the candidates, and treat those older than the last throttled job as throttled before.

    Another consumer, which claimed later jobs at the same moment, has counted them first.
    """
    if last is None:
        return [*candidates]
    return [each._replace(has_waited=each.has_waited or each.row < last) for each in candidates]


def _queue_up(
    late: Sequence[Candidate], now: float, tail: float, free: Sequence[float], step: float
) -> dict[Key, float]:
    """Return the time for which each job is scheduled.

    Jobs that have waited already get the next permits, one after the other: jobs that are due then and follow
    them in the order of the claim give way. All other jobs follow the last throttled one.
    """
    due: dict[Key, float] = {}
    tail, waited = max(tail, now), 0
    for each in late:
        if each.has_waited and free:
            rounds, permit = divmod(waited, len(free))
            due[each.row] = free[permit] + rounds * len(free) * step
            waited += 1
        else:
            tail = max(tail + step, free[0] if free else now)
            due[each.row] = tail
    return due
