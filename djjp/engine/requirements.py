"""Requirements: problems that prevent a database from holding the queue, and its storage parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from django.db import connections

from djjp.engine.database import Database
from djjp.engine.records import Problem


class Requirements:
    """Serve the system checks and the migration."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def configuration_problems(self) -> Iterable[Problem]:
        """Yield the problems of the alias' settings, found without connecting."""
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
                    f"({ours['NAME']}), so the queue is not isolated and its tables may never be created",
                    "Give the queue a file or a database of its own, "
                    "or set DJJP['db_name'] to the other alias.",
                )
        yield from self._db.configuration_problems()

    def server_problems(self) -> Iterable[Problem]:
        """Return the problems of the database server."""
        return self._db.server_problems()

    def storage_parameters(self) -> Sequence[tuple[str, str]]:
        """Return the statements that set the tables' storage parameters, each with the one that resets it."""
        return self._db.storage_parameters()
