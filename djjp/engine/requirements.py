"""Fitness: what keeps a database from holding the queue, and how it stores it best."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from django.db import connections

from djjp.engine.database import Database
from djjp.engine.records import Problem


class Requirements:
    """Answer the system checks and the migration."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def configuration_problems(self) -> Iterable[Problem]:
        """What is wrong with the alias' settings, told without connecting."""
        ours = self._db.connection.settings_dict
        for alias, theirs in connections.settings.items():
            same_engine = theirs.get("ENGINE") == ours["ENGINE"]
            if (
                alias != self._db.alias
                and same_engine
                and self._db.identity(theirs) == self._db.identity(ours)
            ):
                yield Problem(
                    "E004",
                    f"the queue's alias {self._db.alias!r} and the alias {alias!r} are one database "
                    f"({ours['NAME']}), so the queue is not apart and its tables may never be made",
                    "Give the queue a file or a database of its own, "
                    "or set DJJP['db_name'] to the other alias.",
                )
        yield from self._db.configuration_problems()

    def server_problems(self) -> Iterable[Problem]:
        """Return what is wrong with the database itself."""
        return self._db.server_problems()

    def storage_parameters(self) -> Sequence[tuple[str, str]]:
        """Return the statements that set how tables are stored, each with the statement that undoes it."""
        return self._db.storage_parameters()
