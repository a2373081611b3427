"""Rates: how many jobs of a key start within a span of time.

Each start that counts is a row, by the clock of the queue's database, for as long as it counts. A job over
its rate is `scheduled` for the time when there should be room. One that comes for the first time does not
overtake those that were put off: it is put off behind the last of them.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

from djjp.claims.common import TABLE
from djjp.claims.graph import Key
from djjp.claims.limits import Limits, Term
from djjp.models import Start

STARTS = Start._meta.db_table

#: Seconds within which a job starts after it was counted; they widen the window that is counted.
SLACK = 0.05

_PUT_OFF = """state = 'scheduled', run_after = %s,
consumer = NULL, started_at = NULL, attempts = attempts - 1"""


class Rates(Limits):
    """What of the claimed jobs may start now."""

    def _clock(self) -> float:
        """Seconds since the epoch by a clock that all consumers share."""
        return time.time()

    def _over_rate(self, terms: Sequence[Term]) -> set[Key]:
        """Count the starts that are due, and put off the rest; returns the keys of those rows."""
        by_key: dict[str, list[Term]] = defaultdict(list)
        for term in terms:
            by_key[term.key].append(term)
        now, late = (self._clock() if terms else 0.0), {}
        for key, some in by_key.items():
            late.update(self._paced(key, some, now))
        with self.connection.cursor() as cursor:
            for row, due in late.items():
                cursor.execute(
                    f"UPDATE {TABLE} SET {_PUT_OFF} WHERE {self._within('id')}",
                    [self._stamp(due), self._key_list([row])],
                )
        return {*late}

    def _paced(self, key: str, terms: Sequence[Term], now: float) -> dict[Key, float]:
        """Count those of one key that may start now; the others, each with the time until which it is put off."""
        most, per = terms[0].most, terms[0].per or 0.0
        window = per + SLACK
        with self.connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {STARTS} WHERE key = %s AND at <= %s", [key, now - window])
            cursor.execute(f"SELECT at FROM {STARTS} WHERE key = %s ORDER BY at", [key])
            starts = [at for (at,) in cursor.fetchall()]
            cursor.execute(
                f"SELECT max(run_after) FROM {TABLE} WHERE limit_key = %s AND state = 'scheduled'",
                [key],
            )
            last = cursor.fetchone()[0]
            tail = 0.0 if last is None else self._seconds(last)
            late: dict[Key, float] = {}
            counted = 0
            for term in terms:
                room = len(starts) + counted < most
                # One that comes for the first time does not overtake those that were put off.
                if room and (term.put_off or tail <= now):
                    counted += 1
                    continue
                place = len(starts) + counted + len(late) - most
                before = [*starts, *[now] * counted]
                free = before[min(place, len(before) - 1)] + window if place >= 0 else now
                if term.put_off:
                    late[term.row] = max(free, now + window / most)
                else:
                    tail = max(free, tail + window / most, now)
                    late[term.row] = tail
            if counted:
                cursor.executemany(
                    f"INSERT INTO {STARTS} (key, at) VALUES (%s, %s)", [(key, now)] * counted
                )
        return late
