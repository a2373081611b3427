"""Search: find jobs in the order of their ids, in steps that read a bounded number of rows.

A step reads along a source (`djjp.engine.sources`) and then the rows of its jobs, or, where no index has the jobs,
all rows of a part of the primary key. Whatever a planner thinks of the conditions, it cannot read more than that.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from djjp.engine.database import Database
from djjp.engine.rows import TABLE, Key, Rows
from djjp.engine.sources import Range, Source, Sources, Wanted, conditions, union
from djjp.models import Flag


class Step(NamedTuple):
    """The result of a step.

    Attributes:
        found: the jobs that were found, in order.
        reached: the last id that was read; None if there are no more.
    """

    found: list[UUID]
    reached: Key | None


class Search:
    """Find the jobs that meet conditions."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.sources = Sources(db)

    def step(
        self,
        source: Source | None,
        wanted: Wanted,
        within: Range,
        rows: int,
        *,
        newest_first: bool,
    ) -> Step:
        """Read the next `rows` jobs of a range, and return those that meet the conditions.

        Args:
            source: what `sources.best` has returned for these conditions.
        """
        if source is None:
            return self._walk(wanted, within, rows, newest_first)
        return self._along(source, within, rows, newest_first)

    def names(self, ids: Collection[UUID], wanted: Wanted) -> dict[UUID, str]:
        """Return the names of those of these jobs that meet the conditions, by their ids."""
        rows = self._meeting("job.id, job.name", self._db.keys(ids), wanted)
        return {self._db.to_uuid(id): name for id, name in rows}

    def count_newest(self, rows: int) -> tuple[int, bool]:
        """Return the number of jobs among the newest rows, and whether there are more rows."""
        # The condition outside: a planner takes it for a rare one, and would read and sort the whole table.
        newest = f"SELECT flags FROM {TABLE} ORDER BY id DESC LIMIT {rows + 1}"
        is_listed = f"CASE WHEN flags & {Flag.UNLISTED} = 0 THEN 1 ELSE 0 END"
        with self._db.connection.cursor() as cursor:
            cursor.execute(f"SELECT count(*), sum({is_listed}) FROM ({newest}) AS newest")
            found, listed = cursor.fetchone()
        return int(listed or 0), found > rows

    def _walk(self, wanted: Wanted, within: Range, rows: int, newest_first: bool) -> Step:
        """Read a part of the primary key."""
        down, up = ("DESC", "ASC") if newest_first else ("ASC", "DESC")
        table = self._db.indexed(f"{TABLE} AS job", None)
        between, keys = within.condition("job.id")
        # First the end of the part, so that a row that is inserted or deleted meanwhile does not move it.
        last = f"""SELECT id FROM (SELECT job.id FROM {table} WHERE {between} ORDER BY job.id {down} LIMIT {rows})
AS part ORDER BY id {up} LIMIT 1"""
        if not (ends := self._ids(last, keys)):
            return Step([], None)
        (reached,) = ends
        met, values = conditions(self._db, wanted)
        # The range without the end that was reached: of two lower bounds SQLite uses the first one only.
        rest = Range(None, within.below) if newest_first else Range(within.above, None)
        between, keys = rest.condition("job.id")
        # As a CASE the conditions fit no index but the primary key.
        part = f"""SELECT job.id FROM {table} WHERE job.id {">=" if newest_first else "<="} %s AND {between}
AND CASE WHEN {met} THEN 1 ELSE 0 END = 1 ORDER BY job.id {down}"""
        return Step(self._uuids(self._ids(part, [reached, *keys, *values])), reached)

    def _along(self, source: Source, within: Range, rows: int, newest_first: bool) -> Step:
        """Read along the parts of a source, merged."""
        if not source.parts:
            return Step([], None)
        select, params = union(
            part.first(rows, within, newest_first=newest_first) for part in source.parts
        )
        order = "DESC" if newest_first else "ASC"
        ids = self._ids(f"{select} ORDER BY id {order} LIMIT {rows}", params)
        keys = list(dict.fromkeys(ids))
        if not keys:
            return Step([], None)
        met = self.matching(keys, source.rest)
        return Step(self._uuids([key for key in keys if key in met]), keys[-1])

    def matching(self, keys: Sequence[Key], wanted: Wanted) -> set[Key]:
        """Return those of these jobs that meet the conditions."""
        return {key for (key,) in self._meeting(self._db.key_text, keys, wanted)}

    def _meeting(self, columns: str, keys: Sequence[Key], wanted: Wanted) -> Rows:
        met, values = conditions(self._db, wanted)
        table = self._db.indexed(f"{TABLE} AS job", None)
        # As a CASE the conditions fit no index but the primary key.
        text = f"""{self._db.select(columns)} FROM {table} WHERE {self._db.in_ids("job.id")}
AND CASE WHEN {met} THEN 1 ELSE 0 END = 1"""
        with self._db.connection.cursor() as cursor:
            cursor.execute(text, [self._db.key_list(keys), *values])
            return self._db.fetch(cursor)

    def _ids(self, select: str, params: Sequence[Any]) -> list[Key]:
        with self._db.connection.cursor() as cursor:
            cursor.execute(f"{self._db.select(self._db.key_text)} FROM ({select}) AS ids", params)
            return [key for (key,) in self._db.fetch(cursor)]

    def _uuids(self, keys: Sequence[Key]) -> list[UUID]:
        return [id for id in map(self._db.to_id, keys) if id is not None]
