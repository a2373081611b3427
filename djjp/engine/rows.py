"""Rows: read, lock and change the rows of jobs, with ids in the form that the database uses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from django.db.backends.base.base import BaseDatabaseWrapper

from djjp.models import Job, Tag, TotalEntry

TABLE, TAGS = Job._meta.db_table, Tag._meta.db_table
ENTRIES = TotalEntry._meta.db_table
#: The statement that appends an entry to the totals: see `djjp.engine.totals`.
APPEND = f"INSERT INTO {ENTRIES} (minute, figures) VALUES (%s, %s)"

#: An id as a cursor returns it. The engine keeps ids in this form between statements: a turn handles thousands.
Key = Any
#: Rows as a cursor returns them, each with its columns in the order of the SELECT.
Rows = Sequence[Sequence[Any]]

#: The condition of a ready job that can be claimed with others, and that of a suspect: see `djjp.engine.suspects`.
READY = "state = 'ready' AND rescues = 0"
SUSPECT = "state = 'ready' AND rescues > 0"
#: That of a ready job which is neither: a row by hand.
MISFIT = "(rescues < 0 OR rescues IS NULL) AND state = 'ready'"


def stepping(column: str, rows: str, after: str = "") -> str:
    """Return the WITH item `found`, which steps through an index from one value of a column to the next.

    Its cost does not depend on the number of rows. `min(column)` would not promise this: a plan that was made
    among few rows, and kept, can read all rows for it.

    Args:
        rows: the rest of a SELECT of the rows of the index, to which a condition can be added.
        after: a condition on the first value; by default that it is not NULL.
    """
    first = f"ORDER BY {column} LIMIT 1"
    after = after or f" AND {column} IS NOT NULL"  # a row by hand would come first
    return f"""WITH RECURSIVE found({column}) AS (SELECT (SELECT {column} {rows}{after} {first})
UNION ALL SELECT (SELECT {column} {rows} AND {column} > found.{column} {first}) FROM found
WHERE found.{column} IS NOT NULL)"""


class RowAccess(ABC):
    """Statements on jobs that the concerns of the engine share. Each vendor gives ids their form."""

    #: The join that makes the planner read the first of two tables first.
    join = "JOIN"
    #: The id of a job as a statement of many rows can return it, also one by hand that is none.
    key_text = "id"
    #: The condition that a column has one value, where an ORDER BY is to begin with this column.
    is_one = "{0} = {1}"
    #: A condition on a job that is always true, by which the planner expects few rows.
    expects_few = "true"
    #: The condition that a column is like a text in which `*` and `?` stand for others, which `like` makes.
    is_like: str

    def by_index(self, name: str) -> str:
        """Return what makes a SELECT read a table by this index; nothing where the planner decides."""
        return ""

    @property
    @abstractmethod
    def connection(self) -> BaseDatabaseWrapper:
        """Return this thread's connection."""

    @abstractmethod
    def in_ids(self, column: str) -> str:
        """Return the condition that a column is in one parameter, which `id_list` or `key_list` makes."""

    @abstractmethod
    def id_list(self, ids: Iterable[UUID]) -> Any: ...

    @abstractmethod
    def key_list(self, keys: Iterable[Key]) -> Any: ...

    @abstractmethod
    def keys(self, ids: Iterable[UUID]) -> list[Key]:
        """Return ids in the form in which a cursor returns them."""

    @abstractmethod
    def to_uuid(self, value: object) -> UUID:
        """Return the id that a cursor returned."""

    def to_id(self, value: object) -> UUID | None:
        """Return the id that a cursor returned; None for one by hand, by which no other row can refer to it."""
        try:
            return self.to_uuid(value)
        except ValueError:
            return None

    @abstractmethod
    def listed(self, name: str) -> str:
        """Return a FROM item with the texts of one parameter, as a column of this name."""

    def indexed(self, table: str, index: str | None) -> str:
        """Return a FROM item that reads a table by an index, None for its primary key, where this can be fixed."""
        return table

    @abstractmethod
    def like(self, glob: str) -> str:
        """Return the parameter of `is_like`."""

    @abstractmethod
    def records(
        self, columns: Mapping[str, str], rows: Sequence[Sequence[Any]]
    ) -> tuple[str, list[Any]]:
        """Return a FROM item, `given`, of these rows, and its parameters; each column has its type."""

    def select(self, columns: str) -> str:
        """Return the beginning of a SELECT of many rows, which `fetch` reads."""
        return f"SELECT {columns}"

    def fetch(self, cursor: Any) -> Rows:
        rows: Rows = cursor.fetchall()
        return rows

    def rows(
        self, columns: str, rest: str, keys: Iterable[Key], column: str = "id", before: str = ""
    ) -> Rows:
        """Return the rows of `{before} SELECT {columns} {rest}`; `{ids}` means that `column` is in `keys`."""
        statement = f"{before} {self.select(columns)} {rest}"
        statement = statement.format(ids=self.in_ids(column), join=self.join)
        with self.connection.cursor() as cursor:
            cursor.execute(statement, [self.key_list(keys)])
            return self.fetch(cursor)

    def locked_elsewhere(self, ids: Collection[UUID]) -> set[UUID]:
        """Lock these jobs, except those that another transaction has locked, which are returned."""
        return set()

    def lock_rows(self, columns: str, condition: str, keys: Iterable[Key]) -> Rows:
        """Lock those of these jobs that meet a condition, and return them."""
        return self.rows(columns, f"FROM {TABLE} WHERE {{ids}} AND {condition}", keys)

    def update(self, changes: str, values: list[Any], keys: Collection[Key]) -> None:
        """Change these jobs."""
        self._update(changes, "true", values, self.key_list(keys))

    def update_if(
        self, changes: str, condition: str, values: list[Any], ids: Iterable[UUID]
    ) -> int:
        """Change those of these jobs that meet a condition; return their number."""
        return self._update(changes, condition, values, self.id_list(ids))

    def update_returning(
        self, columns: str, changes: str, condition: str, values: list[Any], keys: Iterable[Key]
    ) -> Rows:
        """Change those of these jobs that meet a condition; return these columns of them as they are now."""
        statement = f"UPDATE {TABLE} SET {changes} WHERE {self.in_ids('id')} AND {condition} RETURNING {columns}"
        with self.connection.cursor() as cursor:
            cursor.execute(statement, [*values, self.key_list(keys)])
            rows: Rows = cursor.fetchall()
            return rows

    def _update(self, changes: str, condition: str, values: list[Any], listed: Any) -> int:
        statement = f"UPDATE {TABLE} SET {changes} WHERE {self.in_ids('id')} AND {condition}"
        with self.connection.cursor() as cursor:
            cursor.execute(statement, [*values, listed])
            return int(cursor.rowcount)

    @abstractmethod
    def reschedule(self, changes: str, times: Sequence[tuple[Key, float]]) -> None:
        """Change jobs, each with a `run_after` of its own."""

    @abstractmethod
    def count_down(self, ended: Collection[Key], *, tolerant: bool = False) -> None:
        """Count down the dependents of jobs that have ended, and wake consumers for those that can run.

        Args:
            tolerant: only along the edges that tolerate a parent which did not succeed.
        """
