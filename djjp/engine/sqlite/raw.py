"""Raw statements: the driver itself executes them, unless somebody observes the statements.

Django's cursor translates the placeholders each time. With it a plain insert takes half as long again, and the end
of a batch a fifth.
"""

from __future__ import annotations

from collections.abc import Sequence
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
