"""The counted starts of rates, in a number of rows that does not grow with them.

Each start counts until a time on the queue database's clock. Of a rate that allows many starts, the span is
divided into `SLICES`: its starts count until the end of a slice, a little too long and never too short, and
those of one slice are one row.
"""

from __future__ import annotations

import logging
import math
from collections import Counter

from djjp.engine.clocks import AHEAD
from djjp.engine.database import Database
from djjp.engine.rows import Key
from djjp.models import RateStart

STARTS = RateStart._meta.db_table

logger = logging.getLogger("djjp.consumer")

#: The slices of the span of a rate that allows more starts than that.
SLICES = 400
#: With more rows the starts of a key were counted one by one, as by an earlier version; they are merged.
MOST_ROWS = 4 * SLICES


class Starts:
    """Count starts, and forget those that no longer count."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def of(self, key: str, now: float, per: float) -> Counter[float]:
        """Return the numbers of starts that count, by the time until which they do, the earliest first."""
        rows = self._read(key, now)
        if len(rows) > MOST_ROWS:
            self._merge(key, now, per)
            rows = self._read(key, now)
        if rows and rows[-1][0] > now + per * (1 + 2 / SLICES) + AHEAD:
            self._forget_future(key, now + per * (1 + 2 / SLICES) + AHEAD)
            logger.warning(
                "the rate %r had starts that count for %.0f s, by a clock that was ahead; they are forgotten",
                key,
                rows[-1][0] - now,
            )
            rows = self._read(key, now)
        counts: Counter[float] = Counter()
        for until, count in rows:
            counts[until] += count
        return counts

    def add(self, key: str, until: float, count: int, max_starts: int) -> None:
        """Count starts of a rate that allows `max_starts`."""
        if max_starts <= SLICES:
            self._insert([(key, until, 1)] * count)
            return
        with self._db.connection.cursor() as cursor:
            # A row that another transaction has locked, to subtract from it, is not waited for: that
            # transaction may wait for this one's locks of keys.
            cursor.execute(
                f"SELECT id FROM {STARTS} WHERE key = %s AND until = %s LIMIT 1{self._db.skip_locked}",
                [key, until],
            )
            if (found := cursor.fetchone()) is None:
                self._insert([(key, until, count)])
            else:
                cursor.execute(
                    f"UPDATE {STARTS} SET count = count + %s WHERE id = %s", [count, found[0]]
                )

    def subtract(self, key: str, until: float, count: int) -> None:
        """Count fewer starts, as far as no other transaction has locked their rows."""
        with self._db.transaction(), self._db.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT id, count FROM {STARTS} WHERE key = %s AND until = %s{self._db.skip_locked}",
                [key, until],
            )
            for id, counted in cursor.fetchall():
                less = min(count, counted)
                count -= less
                if less == counted:
                    cursor.execute(f"DELETE FROM {STARTS} WHERE id = %s", [id])
                elif less:
                    cursor.execute(
                        f"UPDATE {STARTS} SET count = count - %s WHERE id = %s", [less, id]
                    )

    def prune(self, limit: int) -> int:
        """Delete up to `limit` rows of starts that no longer count; return their number."""
        now = self._db.clock()
        with self._db.connection.cursor() as cursor:
            cursor.execute(f"SELECT 1 FROM {STARTS} WHERE until <= %s LIMIT 1", [now])
            if cursor.fetchone() is None:
                return 0
        with self._db.transaction(), self._db.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT id FROM {STARTS} WHERE until <= %s ORDER BY until LIMIT %s"
                f"{self._db.skip_locked}",
                [now, limit],
            )
            rows = [id for (id,) in cursor.fetchall()]
            self._delete(rows)
        return len(rows)

    def _read(self, key: str, now: float) -> list[tuple[float, int]]:
        with self._db.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT until, count FROM {STARTS} WHERE key = %s AND until > %s ORDER BY until",
                [key, now],
            )
            return [row for row in cursor.fetchall() if _is_count(*row)]

    def _merge(self, key: str, now: float, per: float) -> None:
        with self._db.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT id, until, count FROM {STARTS} WHERE key = %s AND until > %s{self._db.skip_locked}",
                [key, now],
            )
            rows = cursor.fetchall()
            merged: Counter[float] = Counter()
            for _, until, count in rows:
                if _is_count(until, count):
                    merged[end_of_slice(until, per)] += count
            self._delete([id for id, _, _ in rows])
        self._insert([(key, until, count) for until, count in merged.items()])

    def _forget_future(self, key: str, latest: float) -> None:
        """Delete starts that a clock which was ahead has counted."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {STARTS} WHERE key = %s AND until > %s", [key, latest])

    def _insert(self, rows: list[tuple[str, float, int]]) -> None:
        with self._db.connection.cursor() as cursor:
            cursor.executemany(
                f"INSERT INTO {STARTS} (key, until, count) VALUES (%s, %s, %s)", rows
            )

    def _delete(self, rows: list[Key]) -> None:
        if rows:
            with self._db.connection.cursor() as cursor:
                cursor.execute(
                    f"DELETE FROM {STARTS} WHERE {self._db.in_ids('id')}", [self._db.key_list(rows)]
                )


def _is_count(until: object, count: object) -> bool:
    """Return False for a row by hand that counts no starts."""
    return (
        isinstance(until, (int, float))
        and math.isfinite(until)
        and isinstance(count, int)
        and count > 0
    )


def counts_until(at: float, per: float, max_starts: int) -> float:
    """Return the time until which a start counts that happens at a time, at the latest."""
    return at + per if max_starts <= SLICES else end_of_slice(at + per, per)


def end_of_slice(until: float, per: float) -> float:
    """Return the end of the slice of a span that a time is in."""
    length = per / SLICES
    return max(until, math.ceil(until / length) * length)
