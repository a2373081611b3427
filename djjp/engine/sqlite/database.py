"""SQLite beside the hot path: a consumer's lock, and what the file must be."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from djjp.engine.records import Problem
from djjp.engine.requirements import Fitness
from djjp.engine.sqlite import lockfile
from djjp.engine.sqlite.listener import CommitListener
from djjp.engine.upkeep import Upkeep


class SQLiteHouse(Upkeep, Fitness):
    """What an SQLite file and the system around it do for liveness, wake-ups and checks."""

    def hold(self, consumer: str) -> bool:
        folder = self.notes()
        return folder is not None and lockfile.acquire(_lock(folder, consumer))

    def let_go(self, consumer: str) -> None:
        if (folder := self.notes()) is not None:
            lockfile.release(_lock(folder, consumer))

    def is_held(self, consumer: str) -> bool:
        folder = self.notes()
        return folder is not None and lockfile.is_locked(_lock(folder, consumer))

    def notes(self) -> Path | None:
        """Beside the file, where all its consumers can meet: it is on one machine with them."""
        connection: Any = self.connection
        if connection.is_in_memory_db():
            return None
        folder = Path(f"{connection.settings_dict['NAME']}-consumers")
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def listener(self) -> CommitListener:
        return CommitListener(self.connection)

    def configuration_problems(self) -> Iterable[Problem]:
        name = self.connection.settings_dict["NAME"]
        yield from super().configuration_problems()
        # Under this name Django's test runner keeps the queue for a test run, where it belongs.
        if self.connection.is_in_memory_db() and not str(name).startswith("file:memorydb_"):  # type: ignore[attr-defined]  # only SQLite's wrapper has it
            yield Problem(
                "E005",
                f"the queue's alias {self.alias!r} is an in-memory SQLite database ({str(name)!r}), "
                "which no other process can see",
                "Give it a file: queue_database(BASE_DIR / 'queue.sqlite3').",
            )

    def _place(self, settings: Mapping[str, Any]) -> Any:
        name = str(settings["NAME"])
        # Two databases in memory are two, whatever their names.
        in_memory = name == ":memory:" or "mode=memory" in name
        return object() if in_memory else Path(name).resolve()

    def server_problems(self) -> Iterable[Problem]:
        self.connection.ensure_connection()
        if sqlite3.sqlite_version_info < (3, 35):
            yield Problem(
                "E006",
                f"djjp needs SQLite 3.35 or newer; this Python has {sqlite3.sqlite_version}",
                "Use a Python built with a newer SQLite, or keep the queue in PostgreSQL.",
            )


def _lock(folder: Path, consumer: str) -> Path:
    return folder / f"{consumer.replace(':', '-')}.lock"
