"""Fitness: what keeps a database from holding the queue, and how it stores it best."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.db import connections

from djjp.engine.database import OnDatabase
from djjp.engine.records import Problem


class Fitness(OnDatabase):
    """The questions of the system checks, and of a migration."""

    def configuration_problems(self) -> Iterable[Problem]:
        """What is wrong with the alias' settings, told without connecting."""
        ours = self.connection.settings_dict
        for alias, theirs in connections.settings.items():
            same_engine = theirs.get("ENGINE") == ours["ENGINE"]
            if alias != self.alias and same_engine and self._place(theirs) == self._place(ours):
                yield Problem(
                    "E004",
                    f"the queue's alias {self.alias!r} and the alias {alias!r} are one database "
                    f"({ours['NAME']}), so the queue is not apart and its tables may never be made",
                    "Give the queue a file or a database of its own, "
                    "or set DJJP['db_name'] to the other alias.",
                )

    @abstractmethod
    def _place(self, settings: Mapping[str, Any]) -> Any:
        """What two aliases of one database have in common."""

    @abstractmethod
    def server_problems(self) -> Iterable[Problem]:
        """What is wrong with the database itself."""

    def storage(self) -> Sequence[tuple[str, str]]:
        """Statements that say how tables are stored, each with the one that takes it back."""
        return []
