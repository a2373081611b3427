"""History: the entries of the totals, added up by minute, hour, day and for ever.

An entry (see `djjp.engine.totals`) is added to four rows for each queue and name that it has figures of, and is
deleted, in one transaction. So at any time each end is in one entry, or in one row of each span; a crash or a
lost answer neither loses nor doubles it. Rows of minutes and hours are deleted after their time; those of
longer spans have their figures already, so no figure ever falls.

Of each minute and hour there is also a row with the figures of all queues and names, from which a page of a week
reads 168 rows and not 168 for each name. It only saves work: where it is missing, it is made from the others.

One transaction at a time adds up. It holds a lock, and the others leave the entries to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from djjp.engine.database import Database
from djjp.engine.rows import ENTRIES
from djjp.engine.sums import Entries, Sums, of_columns
from djjp.engine.tiles import KEPT, LENGTHS, OF_ALL, Tile
from djjp.engine.totals import KINDS
from djjp.models import Span, Total

_TOTALS = Total._meta.db_table

#: The entries that one step adds, and the characters of their figures, unless a single one has more.
STEP_ENTRIES, STEP_CHARACTERS = 1000, 512 * 1024
#: The rows of minutes, or hours, that one step deletes, with all others of the last one.
STEP_ROWS = 1000
#: The number of entries that a read adds to the rows, the oldest first.
MOST_PENDING = 10_000
#: The columns with histograms.
HISTOGRAMS = ("waits", "runs")
_LOCK = "djjp totals"
_ROWS_AT_ONCE = 200

_KEY = {"span": "text", "starts_at": "bigint", "queue": "text", "name": "text"}
_SUMMED = (*KINDS, "wait_seconds", "run_seconds")
_VALUES = (*_SUMMED, *HISTOGRAMS)
_COLUMNS = {
    **_KEY,
    **dict.fromkeys(KINDS, "bigint"),
    **dict.fromkeys(("wait_seconds", "run_seconds"), "float8"),
    **dict.fromkeys(HISTOGRAMS, "text"),
}

_ANY = f"SELECT 1 FROM {ENTRIES} WHERE id > %s ORDER BY id LIMIT 1 OFFSET %s"
_PENDING = (
    f"SELECT id, length(figures) FROM {ENTRIES} WHERE id > %s ORDER BY id LIMIT {STEP_ENTRIES}"
)
_READ = f"""SELECT {", ".join(f"total.{column}" for column in _COLUMNS)} FROM {{given}} {{join}} {_TOTALS} AS
total ON {" AND ".join(f"total.{column} = given.{column}" for column in _KEY)}"""
_WRITE = f"""INSERT INTO {_TOTALS} ({", ".join(_COLUMNS)}) SELECT {", ".join(_COLUMNS)} FROM {{given}} WHERE true
ON CONFLICT ({", ".join(_KEY)}) DO UPDATE SET {", ".join(f"{each} = excluded.{each}" for each in _VALUES)}"""

_LAST_OLD = f"""SELECT max(starts_at) FROM (SELECT starts_at FROM {_TOTALS}
WHERE span = %s AND starts_at < %s ORDER BY starts_at LIMIT {STEP_ROWS}) AS old"""
_DELETE = f"DELETE FROM {_TOTALS} WHERE span = %s AND starts_at <= %s"
_STARTS = f"SELECT starts_at FROM {_TOTALS} WHERE span = %s AND {{these}}"

_SUMS = ", ".join(f"sum({column})" for column in _SUMMED)
_NO_SUMS = ", ".join(["0"] * len(_SUMMED))
# One statement, and so one moment: an entry that is added meanwhile is counted once.
_FIGURES = f"""SELECT {{columns}}, max(starts_at), {_SUMS}, {{waits}}, {{runs}}, NULL
FROM ({{tiles}}) AS total {{grouped}}
UNION ALL SELECT '', '', minute, minute, {_NO_SUMS}, '', '', figures
FROM (SELECT minute, figures FROM {ENTRIES} ORDER BY id LIMIT {MOST_PENDING}) AS pending"""

_Key = tuple[str, int, str, str]


class Added(NamedTuple):
    """The result of a step: whether there are more entries, and the id of the last entry that it has added."""

    more: bool
    last: int


class Group(NamedTuple):
    """Figures by queue, name and start; "" or 0 where they are those of all.

    Attributes:
        last: the start of the last row, or of the last entry's minute, of which they are.
    """

    queue: str
    name: str
    starts_at: int
    last: int
    sums: Sums


class History:
    """Add up the entries of the totals, delete old rows, and read both."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def has_entries(self, number: int = 1, after: int = 0) -> bool:
        """Return whether there are this many entries behind one, or more."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(_ANY, [after, number - 1])
            return cursor.fetchone() is not None

    def add_entries(self, after: int = 0) -> Added:
        """Add some entries to the rows.

        Nothing is done while another transaction adds entries.

        Args:
            after: the id of the last entry of an earlier step, as a hint: the place of each entry that was
                deleted since a transaction began that is still open costs a read some time. An entry before
                it, of a transaction that took longer, is only found without it.
        """
        if not self.has_entries(
            after=after
        ):  # before the transaction, which on SQLite keeps other writers out
            return Added(more=False, last=after)
        with self._db.transaction():
            if not self._db.try_lock(_LOCK):
                return Added(more=False, last=after)
            with self._db.connection.cursor() as cursor:
                cursor.execute(_PENDING, [after])
                pending = cursor.fetchall()
            ids = _first(pending)
            if ids:
                added = _by_row(self._take(ids))
                self._add(added, added.__getitem__)
                self._add(_of_all(added), self._sum)
        more = len(ids) < len(pending) or len(ids) == STEP_ENTRIES
        # Where no rows are locked, there are no such places, and an id comes again once its entry is deleted.
        return Added(more, max(ids, default=after) if self._db.locks_rows else 0)

    def _take(self, ids: Sequence[int]) -> list[tuple[int, str]]:
        """Delete entries, and return them."""
        these, values = self._db.in_ids("id"), [self._db.key_list(ids)]
        with self._db.connection.cursor() as cursor:
            cursor.execute(f"SELECT minute, figures FROM {ENTRIES} WHERE {these}", values)
            entries = list(cursor.fetchall())
            cursor.execute(f"DELETE FROM {ENTRIES} WHERE {these}", values)
        return entries

    def _add(self, added: Mapping[_Key, Sums], first: Callable[[_Key], Sums]) -> None:
        """Add figures to rows.

        Args:
            first: returns the figures of a row that does not exist yet, with those that are added.
        """
        keys = sorted(added)
        for start in range(0, len(keys), _ROWS_AT_ONCE):
            part = keys[start : start + _ROWS_AT_ONCE]
            rows = self._read(part)
            for key in part:
                if key in rows:
                    rows[key].add(added[key])
                else:
                    rows[key] = first(key)
            self._put(rows)

    def _sum(self, key: _Key) -> Sums:
        """Return the figures of a row of all queues and names, from those of each."""
        span = next(span for span, of_all in OF_ALL.items() if of_all.value == key[0])
        histograms = ", ".join(f"{self._db.joined}({each}, ',')" for each in HISTOGRAMS)
        with self._db.connection.cursor() as cursor:
            statement = (
                f"SELECT {_SUMS}, {histograms} FROM {_TOTALS} WHERE span = %s AND starts_at = %s"
            )
            cursor.execute(statement, [span.value, key[1]])
            return of_columns(cursor.fetchone())

    def _put(self, rows: Mapping[_Key, Sums]) -> None:
        values = [(*key, *rows[key].columns()) for key in sorted(rows)]
        given, params = self._db.records(_COLUMNS, values)
        with self._db.connection.cursor() as cursor:
            cursor.execute(_WRITE.format(given=given), params)

    def _read(self, keys: Sequence[_Key]) -> dict[_Key, Sums]:
        given, params = self._db.records(_KEY, keys)
        with self._db.connection.cursor() as cursor:
            cursor.execute(_READ.format(given=given, join=self._db.join), params)
            return {
                tuple(row[: len(_KEY)]): of_columns(row[len(_KEY) :]) for row in cursor.fetchall()
            }

    def prune(self, now: float) -> bool:
        """Delete some rows of minutes and hours whose time is over; return whether there may be more."""
        more = False
        spans = {**KEPT, **{OF_ALL[span]: kept for span, kept in KEPT.items()}}
        for span, kept in spans.items():
            with self._db.connection.cursor() as cursor:
                cursor.execute(_LAST_OLD, [span.value, int(now - kept)])
                (last,) = cursor.fetchone()
                if last is not None:
                    cursor.execute(_DELETE, [span.value, last])
                    more = True
        return more

    def read(
        self,
        tiles: Sequence[Tile],
        only: Mapping[str, str],
        by: Sequence[str],
        *,
        histograms: Collection[str] = HISTOGRAMS,
    ) -> list[Group]:
        """Return the figures of some rows, and of the entries that belong to them.

        Args:
            only: the queue or the name of which the figures are read, by column.
            by: the columns by which they are apart: some of "queue", "name" and "starts_at".
            histograms: the histograms of the rows that are read, which takes most of the time.
        """
        found: dict[tuple[str, str, int], Sums] = {}
        lasts: dict[tuple[str, str, int], int] = {}
        pending = Entries()
        with self._db.connection.cursor() as cursor:
            cursor.execute(*self._figures(tiles, only, by, histograms=histograms))
            for queue, name, starts_at, last, *values, figures in cursor.fetchall():
                if figures is None:
                    found[queue, name, int(starts_at)] = of_columns(values)
                    lasts[queue, name, int(starts_at)] = int(last)
                    continue
                starts = [tile.start_of(starts_at) for tile in tiles]
                for start in starts:
                    if start is not None:
                        pending.add(start, figures)
        for (start, queue, name), sums in pending.sums().items():
            row = {"queue": queue, "name": name, "starts_at": start}
            if only.items() <= row.items():
                key = (
                    queue if "queue" in by else "",
                    name if "name" in by else "",
                    start if "starts_at" in by else 0,
                )
                found.setdefault(key, Sums()).add(sums)
                lasts[key] = max(start, lasts.get(key, 0))
        return [Group(*key, lasts[key], sums) for key, sums in found.items()]

    def _figures(
        self,
        tiles: Sequence[Tile],
        only: Mapping[str, str],
        by: Sequence[str],
        *,
        histograms: Collection[str],
    ) -> tuple[str, list[Any]]:
        now = time.time()
        parts = [
            part
            for tile in tiles
            for part in self._parts(
                tile, tile.starts(now), sums=not only and tuple(by) == ("starts_at",)
            )
        ]
        where = "".join(f" AND {column} = %s" for column in only)
        columns = (("queue", "''"), ("name", "''"), ("starts_at", "0"))
        statement = _FIGURES.format(
            columns=", ".join(
                each if each in by else f"{none} AS {each}" for each, none in columns
            ),
            **{
                each: f"{self._db.joined}({each}, ',')" if each in histograms else "'{}'"
                for each in HISTOGRAMS
            },
            tiles=" UNION ALL ".join(
                f"SELECT * FROM {_TOTALS} WHERE span = %s AND {these}{where}" for these, _ in parts
            ),
            grouped=f"GROUP BY {', '.join(by)}" if by else "HAVING count(*) > 0",
        )
        return statement, [value for _, values in parts for value in (*values, *only.values())]

    def _parts(
        self, tile: Tile, starts: list[int] | None, *, sums: bool
    ) -> Iterable[tuple[str, list[Any]]]:
        """Yield conditions on the rows of a tile behind their span, with the span and the other parameters.

        They name the starts, so that the queue behind them is found in the primary key. And of a range a planner
        expects many more rows than there are, and reads the whole table.
        """
        span, after = tile.span, tile.start - 1
        if starts:
            summed: set[int] = set()
            if sums and span in OF_ALL:
                # A row that is added meanwhile is not read; those of which it is the sum are.
                summed = self._summed(OF_ALL[span], starts)
            lists = {
                OF_ALL.get(span, span): sorted(summed),
                span: [s for s in starts if s not in summed],
            }
            for each, listed in lists.items():
                if listed:
                    yield self._db.in_ids("starts_at"), [each.value, self._db.key_list(listed)]
            after = starts[-1]
        if not starts and tile.end is not None:
            yield "starts_at > %s AND starts_at < %s", [span.value, after, tile.end]
        elif tile.end is None:
            yield "starts_at > %s", [span.value, after]

    def _summed(self, span: Span, starts: list[int]) -> set[int]:
        with self._db.connection.cursor() as cursor:
            cursor.execute(
                _STARTS.format(these=self._db.in_ids("starts_at")),
                [span.value, self._db.key_list(starts)],
            )
            return {int(start) for (start,) in cursor.fetchall()}


def _of_all(added: Mapping[_Key, Sums]) -> dict[_Key, Sums]:
    """Return figures by the rows of all queues and names to which they are added."""
    found: dict[_Key, Sums] = {}
    spans = {span.value: of_all.value for span, of_all in OF_ALL.items()}
    for (span, start, _, _), sums in added.items():
        if span in spans:
            found.setdefault((spans[span], start, "", ""), Sums()).add(sums)
    return found


def _first(pending: Sequence[tuple[int, int]]) -> list[int]:
    """Return the ids of the first entries that are added in one step."""
    ids: list[int] = []
    characters = 0
    for id, size in pending:
        characters += size
        if ids and characters > STEP_CHARACTERS:
            break
        ids.append(id)
    return ids


def _by_row(entries: Iterable[tuple[int, str]]) -> dict[_Key, Sums]:
    """Return the figures of entries by the rows to which they are added."""
    collected = Entries()
    for minute, figures in entries:
        collected.add(minute, figures)
    rows: dict[_Key, Sums] = {}
    for (minute, *names), sums in collected.sums().items():
        queue, name = map(_storable, names)
        starts = [(span.value, minute // length * length) for span, length in LENGTHS.items()]
        for span, start in (*starts, (Span.EVER.value, 0)):
            key = (span, start, queue, name)
            if key in rows:
                both = Sums()
                both.add(rows[key])
                both.add(sums)
                rows[key] = both
            else:
                rows[key] = sums
    return rows


def _storable(text: str) -> str:
    """Return a queue or a name as each database takes it: those of rows by hand can have other characters."""
    return (
        text if text.isprintable() else text.encode("utf-8", "replace").decode().replace("\0", "?")
    )
