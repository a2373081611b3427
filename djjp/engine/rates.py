"""Rates: how many jobs of a key start within a span of time.

Each start that counts is a row, until the moment from which it counts no more, by the clock of the queue's
database. A job over its rate is `scheduled` for the time when there should be room. One that comes for the
first time does not overtake those that were put off: it is put off behind the last of them.

A job does not start in the moment in which it is counted: first the transaction has to commit. So its start
counts from the latest moment at which it may still begin, and who counted it sees to it that it begins
before that, or gives it back.
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

#: Seconds from the moment in which a job is counted to the latest one from which its start counts.
START_MARGIN = 0.05

#: Nothing is put off for longer, in seconds: a line may be longer than there are years to write.
FARTHEST = 3_650 * 86_400.0

# By the key twice, as ready jobs of a key: see `limits`.
_LINE = f"""FROM {TABLE} WHERE limit_key >= %s AND limit_key <= %s AND state = 'scheduled' AND attempts = 0
AND (flags & {Flag.THROTTLED}) > 0 ORDER BY"""
_FRESH = f"AND attempts = 0 AND (flags & {Flag.THROTTLED}) = 0"

_PUT_OFF = f"state = 'scheduled', flags = flags | {Flag.THROTTLED}"
_GIVEN_BACK = f"{_PUT_OFF}, consumer = NULL, started_at = NULL, attempts = attempts - 1"


class Rates:
    """Count the starts of jobs, and throttle the jobs over their rate."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def forget_starts(self, starts: Mapping[UUID, float]) -> None:
        """Forget the starts of jobs that were given back before they began.

        Args:
            starts: until when each counts, as `screen` said.
        """
        rows = self._db.rows("id, limit_key", f"FROM {TABLE} WHERE {{ids}}", self._db.keys(starts))
        for (key, until), count in Counter(
            (key, starts[self._db.to_uuid(id)]) for id, key in rows
        ).items():
            self._forget("WHERE key = %s AND until = %s", [key, until], count)

    def prune(self, limit: int) -> int:
        """Delete up to `limit` starts that count no more; returns how many there were."""
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

    def count_starts(self, terms: Sequence[Candidate], start_margin: float) -> dict[Key, float]:
        """Count the starts that are due, and put off the rest; returns until when each of them counts."""
        by_key: dict[str, list[Candidate]] = defaultdict(list)
        for term in terms:
            by_key[term.key].append(term)
        starts: dict[Key, float] = {}
        for key, some in by_key.items():
            starts.update(self._throttle(key, some, start_margin))
        return starts

    def _throttle(
        self, key: str, terms: Sequence[Candidate], start_margin: float
    ) -> dict[Key, float]:
        """Count those of one key that may start now, and put off the others."""
        most, per, now = terms[0].most, terms[0].per or 0.0, self._db.clock()
        # What others see of `run_after` is by the consumers' clocks.
        shift = time.time() - now
        with self._db.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT until FROM {STARTS} WHERE key = %s AND until > %s ORDER BY until",
                [key, now],
            )
            taken = [until for (until,) in cursor.fetchall()]
        last, tail = self._last(key)
        tail -= shift
        starts: dict[Key, float] = {}
        late: list[Candidate] = []
        for term in _has_waited(terms, last):
            if len(taken) + len(starts) < most and (term.waited or tail <= now):
                starts[term.row] = now + start_margin + per
            else:
                late.append(term)
        if starts:
            taken += starts.values()
            with self._db.connection.cursor() as cursor:
                cursor.executemany(
                    f"INSERT INTO {STARTS} (key, until) VALUES (%s, %s)",
                    [(key, until) for until in starts.values()],
                )
        if late:
            # When the next places become free, if all are taken.
            free = sorted(taken)[-most:] if len(taken) >= most else []
            others = _has_waited(self._other_ready(key, fresh_only=not free), last)
            due = _queue_up([*late, *others], now, tail, free, (per + START_MARGIN) / most)
            due = {row: min(at, now + FARTHEST) + shift for row, at in due.items()}
            self._db.reschedule(_GIVEN_BACK, [(term.row, due[term.row]) for term in late])
            if others:
                self._db.reschedule(_PUT_OFF, [(term.row, due[term.row]) for term in others])
        return starts

    def _last(self, key: str) -> tuple[Key | None, float]:
        """Who is the last in line, and until when that one is put off; None and 0 for no line."""
        with self._db.connection.cursor() as cursor:
            # As an expression, which no driver takes for a column with a type of its own.
            cursor.execute(
                f"SELECT id, coalesce(run_after, NULL) {_LINE} limit_key DESC, run_after DESC LIMIT 1",
                [key, key],
            )
            found = cursor.fetchone()
        return (None, 0.0) if found is None else (found[0], self._db.to_seconds(found[1]))

    def _other_ready(self, key: str, *, fresh_only: bool) -> list[Candidate]:
        """Ready jobs that would only be claimed to be put off too."""
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


def _has_waited(terms: Sequence[Candidate], last: Key | None) -> list[Candidate]:
    """The same, with those that are older than the last in line as if they had been put off.

    Another consumer, which claimed later ones at the same moment, was quicker to count them.
    """
    if last is None:
        return [*terms]
    return [term._replace(waited=term.waited or term.row < last) for term in terms]


def _queue_up(
    late: Sequence[Candidate], now: float, tail: float, free: Sequence[float], step: float
) -> dict[Key, float]:
    """Until when each is put off.

    Those that have waited already get the next places, one after the other: whoever is due then and comes
    after them in the order of the claim gives way. All others stand behind the last of the line.
    """
    due: dict[Key, float] = {}
    tail, waited = max(tail, now), 0
    for term in late:
        if term.waited and free:
            rounds, place = divmod(waited, len(free))
            due[term.row] = free[place] + rounds * len(free) * step
            waited += 1
        else:
            tail = max(tail + step, free[0] if free else now)
            due[term.row] = tail
    return due
