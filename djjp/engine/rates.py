"""Rates: how many jobs of a key start within a span of time.

Each start counts until a time on the queue database's clock: see `djjp.engine.starts`. A job over its rate is
`scheduled` for the time at which a permit should be free. A new job does not overtake the throttled ones: it is
throttled behind the last of them.

A job starts later than it is counted: first the transaction must commit. So its start counts from the latest
time at which it can still start, and the consumer that counted it starts it before that time or releases it.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from uuid import UUID

from djjp.engine.clocks import AHEAD
from djjp.engine.database import Database
from djjp.engine.limits import BLOCK_BATCH, READY, READY_IN_ORDER, Candidate
from djjp.engine.rows import TABLE, Key
from djjp.engine.starts import Starts, counts_until
from djjp.models import Flag

#: Seconds from the count of a start to the latest time at which the job can start; the start counts from there.
START_MARGIN = 0.05

#: The longest time, in seconds, for which a job is throttled: the due time must be a year that can be written.
MAX_DELAY = 3_650 * 86_400.0

#: The number of rates that are checked at once for a clock that was ahead, and of their jobs that are due then.
RATES_AT_ONCE, RIGHTED = 500, 2000

# `>= key AND <= key`, not `=`, as for the ready jobs of a key: see `limits`.
_THROTTLED = f"""FROM {TABLE} WHERE limit_key >= %s AND limit_key <= %s AND state = 'scheduled' AND attempts = 0
AND (flags & {Flag.THROTTLED}) > 0 ORDER BY"""
# From one key to the next, each a step into the index; with the first throttled job of each.
_ANY = f"""FROM {TABLE} WHERE limit_key IS NOT NULL AND state = 'scheduled' AND attempts = 0
AND (flags & {Flag.THROTTLED}) > 0 AND limit_key >"""
_FIRST = f"""{_THROTTLED.replace("%s", "key")} limit_key, run_after LIMIT 1"""
_FIRST_THROTTLED = f"""WITH RECURSIVE found(key) AS (SELECT min(limit_key) {_ANY} %s
UNION ALL SELECT (SELECT min(limit_key) {_ANY} found.key) FROM found WHERE found.key IS NOT NULL)
SELECT key, (SELECT coalesce(run_after, NULL) {_FIRST}), (SELECT limit_per {_FIRST})
FROM found WHERE key IS NOT NULL LIMIT {RATES_AT_ONCE}"""
_FRESH = f"AND attempts = 0 AND (flags & {Flag.THROTTLED}) = 0"


_THROTTLE = f"state = 'scheduled', flags = flags | {Flag.THROTTLED}"
_THROTTLE_CLAIMED = f"{_THROTTLE}, consumer = NULL, started_at = NULL, attempts = attempts - 1"


class Rates:
    """Count the starts of jobs, and throttle the jobs over their rate."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._starts = Starts(db)

    def forget_starts(self, starts: Sequence[tuple[UUID, float]]) -> None:
        """Delete the starts of jobs that were released before they started.

        Args:
            starts: each job with the time until which its start counts, from `Admission.admit`.
        """
        ids = {id for id, _ in starts}
        rows = self._db.rows("id, limit_key", f"FROM {TABLE} WHERE {{ids}}", self._db.keys(ids))
        keys = {self._db.to_uuid(id): key for id, key in rows}
        counts = Counter((keys[id], until) for id, until in starts if id in keys)
        for (key, until), count in counts.items():
            self._starts.subtract(key, until, count)

    def prune(self, limit: int) -> int:
        """Delete up to `limit` rows of starts that no longer count; return their number."""
        return self._starts.prune(limit)

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
        max_starts, per, now = candidates[0].limit_max, candidates[0].per or 0.0, self._db.clock()
        # `run_after` is by the consumers' clocks.
        shift = time.time() - now
        counted = self._starts.of(key, now, per)
        in_use = counted.total()
        until = counts_until(now + start_margin, per, max_starts)
        last, tail = self._last(key)
        tail -= shift
        starts: dict[Key, float] = {}
        late: list[Candidate] = []
        for each in _has_waited(candidates, last):
            if in_use + len(starts) < max_starts and (each.has_waited or tail <= now):
                starts[each.row] = until
            else:
                late.append(each)
        if starts:
            self._starts.add(key, until, len(starts), max_starts)
            counted[until] += len(starts)
        if late:
            is_full = counted.total() >= max_starts
            others = _has_waited(self._other_ready(key, fresh_only=not is_full), last)
            free = _next_permits(counted, max_starts, len(late) + len(others)) if is_full else []
            step = (per + START_MARGIN) / max_starts
            due = _queue_up([*late, *others], now, tail, free, step, max_starts)
            due = {row: min(at, now + MAX_DELAY) + shift for row, at in due.items()}
            self._db.reschedule(_THROTTLE_CLAIMED, [(each.row, due[each.row]) for each in late])
            if others:
                self._db.reschedule(_THROTTLE, [(each.row, due[each.row]) for each in others])
        return starts

    def put_right(self, after: str) -> tuple[list[str], str | None]:
        """Let throttled jobs be due now, where the first of a key waits for longer than the rate can ask.

        A clock that was ahead has scheduled them, or the jobs before them were cancelled. They are throttled anew
        when they are claimed.

        Args:
            after: the key after which to start.

        Returns:
            The keys that were put right, and the last key read, or None if no more keys can follow it.
        """
        with self._db.connection.cursor() as cursor:
            cursor.execute(_FIRST_THROTTLED, [after])
            # SQLite keeps a key of another type as it is: a row by hand.
            first = [each for each in cursor.fetchall() if isinstance(each[0], str)]
        now = max(time.time(), self._db.clock())
        latest = {key: now + per + AHEAD for key, _, per in first if isinstance(per, float)}
        found = [k for k, due, _ in first if k in latest and self._db.to_seconds(due) > latest[k]]
        if found:
            with self._db.transaction(), self._db.connection.cursor() as cursor:
                self._db.lock_keys(found)
                for key in found:
                    cursor.execute(
                        f"UPDATE {TABLE} SET run_after = %s WHERE id IN"
                        f" (SELECT id {_THROTTLED} limit_key, run_after LIMIT {RIGHTED})"
                        " AND state = 'scheduled' AND run_after > %s",
                        [self._db.to_param(now), key, key, self._db.to_param(latest[key])],
                    )
        return found, first[-1][0] if len(first) == RATES_AT_ONCE else None

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


def _next_permits(counted: Mapping[float, int], max_starts: int, wanted: int) -> list[float]:
    """Return the times at which the next permits become free, of which all are in use."""
    surplus = sum(counted.values()) - max_starts  # the starts that must stop counting before
    permits: list[float] = []
    for until in sorted(counted):
        skipped = min(surplus, counted[until])
        surplus -= skipped
        permits += [until] * min(counted[until] - skipped, wanted - len(permits))
    return permits


def _queue_up(
    late: Sequence[Candidate],
    now: float,
    tail: float,
    free: Sequence[float],
    interval: float,
    max_starts: int,
) -> dict[Key, float]:
    """Return the time for which each job is scheduled.

    Jobs that have waited get the next permits in turn. If another job is due at that time and comes later in
    claim order, it waits. All other jobs follow the last throttled one.

    Args:
        free: the times of the next permits, one for each job or all of them, if all are in use.
    """
    due: dict[Key, float] = {}
    tail, waited = max(tail, now), 0
    for each in late:
        if each.has_waited and free:
            rounds, permit = divmod(waited, max_starts)
            due[each.row] = free[permit] + rounds * max_starts * interval
            waited += 1
        else:
            tail = max(tail + interval, free[0] if free else now)
            due[each.row] = tail
    return due
