"""Raw statements, for one row and for many: the driver itself executes them, unless they are observed.

Django's cursor translates the placeholders each time. With it a plain insert takes half as long again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any


class RawStatement:
    """A statement that is executed very often.

    Args:
        text: with the placeholders of Django, `%s`.
    """

    __slots__ = ("_for_driver", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._for_driver = text.replace("%s", "?")

    def execute(self, connection: Any, params: Sequence[Any]) -> int:
        """Execute it on a connection of Django and return the number of rows that it has written."""
        # "cursor": a TestCase has replaced the method, because the TestCase does not list this database.
        if connection.queries_logged or connection.execute_wrappers or "cursor" in vars(connection):
            with connection.cursor() as cursor:
                cursor.execute(self._text, params)
                return int(cursor.rowcount)
        # As that cursor does, without the calls that find nothing to do.
        if connection.connection is None:
            connection.ensure_connection()
        if connection.needs_rollback:
            connection.validate_no_broken_transaction()
        try:
            rowcount: int = connection.connection.execute(self._for_driver, params).rowcount
        except Exception:
            with connection.wrap_database_errors:
                raise
        return rowcount


class BatchStatement:
    """A statement that writes many rows, which takes half the time of one execution for each row.

    SQLite opens the table and all its indexes once for each execution, which takes longer than to write a row. A
    batch is written in parts of `most` rows, and the rest in parts of the powers of two below: few statements, so
    that all of them stay prepared.

    Args:
        text: with `{rows}` for the rows of VALUES.
        row: the placeholders of one row.
        most: the rows of a part, a power of two. Some libraries of SQLite take no more than 999 parameters.
        filler: a row that writes nothing, with which the rest is filled up to one part.
    """

    __slots__ = ("_by_size", "_filler", "_most")

    def __init__(self, text: str, row: str, most: int, filler: Sequence[Any] | None = None) -> None:
        self._most, self._filler = most, filler
        sizes = [1 << power for power in range(most.bit_length())]
        self._by_size = {
            size: RawStatement(text.replace("{rows}", ", ".join([row] * size))) for size in sizes
        }

    def execute(self, connection: Any, rows: Sequence[Sequence[Any]]) -> int:
        """Execute it for these rows and return the number of rows that it has written."""
        if self._filler is not None and (rest := len(rows) % self._most):
            rows = [*rows, *[self._filler] * ((1 << (rest - 1).bit_length()) - rest)]
        written = start = 0
        while left := len(rows) - start:
            size = min(self._most, 1 << left.bit_length() - 1)
            values = [*chain.from_iterable(rows[start : start + size])]
            written += self._by_size[size].execute(connection, values)
            start += size
        return written
