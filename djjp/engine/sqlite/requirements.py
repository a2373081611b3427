"""Requirements of a queue on SQLite: a file that all its users can write, and safe pragmas."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from djjp.engine.records import Problem

# What nothing can be done about: values of pragmas, in lower case, with the reason.
_REFUSED = {
    ("query_only", "1"): "jobs cannot be written",
    ("journal_mode", "off"): "a crash damages the file",
    ("journal_mode", "memory"): "a crash damages the file",
    ("encoding", "utf-16le"): "djjp's statements are for UTF-8 only",
    ("encoding", "utf-16be"): "djjp's statements are for UTF-8 only",
}

# The user whose rights count is the one that the process acts for, where the system can tell.
_EFFECTIVE = os.access in os.supports_effective_ids


def configuration_problems(connection: Any) -> Iterator[Problem]:
    """Yield what is wrong with the settings of an alias, without connecting."""
    alias, name = connection.alias, str(connection.settings_dict["NAME"])
    # Under this name Django's test runner keeps the queue for a test run, where it belongs.
    if name.startswith("file:memorydb_"):
        return
    hint = "Give it a file: queue_database(BASE_DIR / 'queue.sqlite3')."
    if connection.is_in_memory_db():
        yield Problem(
            "E005",
            f"the queue's alias {alias!r} is an in-memory SQLite database ({name!r}), "
            "which no other process can see",
            hint,
        )
    elif not name or "\0" in name or name.startswith("file:"):
        yield Problem(
            "E005",
            f"the queue's alias {alias!r} is named {name!r}, which is no path of a file; "
            "SQLite would read a name that begins with 'file:' as an address with options",
            hint,
        )
    elif not Path(name).is_absolute():
        yield Problem(
            "E023",
            f"the queue's alias {alias!r} is the file {name!r}, which is another one in each working directory: "
            "web server and consumers can start in different ones",
            "Give the whole path: queue_database(BASE_DIR / 'queue.sqlite3'); in a URL that is a fourth slash: "
            f"sqlite:///{os.path.abspath(name)}.",  # noqa: PTH100  (resolve() follows symbolic links)
        )
    else:
        yield from _unwritable(alias, Path(name))
    command = str(connection.settings_dict["OPTIONS"].get("init_command") or "")
    if re.search(r"locking_mode\W+exclusive", command, re.IGNORECASE):
        # SQLite reports the mode as normal once it is changed back, and keeps the lock in WAL mode.
        reason = "no other process can open the file"
        yield _pragma(alias, "locking_mode", "exclusive", reason)


def server_problems(connection: Any) -> Iterator[Problem]:
    """Yield what is wrong with SQLite itself, and with the file."""
    if sqlite3.sqlite_version_info < (3, 35):
        yield Problem(
            "E006",
            f"djjp needs SQLite 3.35 or newer; this Python has {sqlite3.sqlite_version}",
            "Use a Python built with a newer SQLite, or keep the queue in PostgreSQL.",
        )
    with connection.cursor() as cursor:
        for pragma in dict.fromkeys(name for name, _ in _REFUSED):
            value = str(cursor.execute(f"PRAGMA {pragma}").fetchone()[0]).lower()
            reason = _REFUSED.get((pragma, value))
            if reason and not connection.is_in_memory_db():
                yield _pragma(connection.alias, pragma, value, reason)


def _pragma(alias: str, pragma: str, value: str, reason: str) -> Problem:
    return Problem(
        "E015",
        f"the queue's alias {alias!r} has SQLite's {pragma} {value}: {reason}",
        f"Remove {pragma} from OPTIONS['init_command'] of DATABASES[{alias!r}]; "
        "for an encoding, also create the file anew.",
    )


def _unwritable(alias: str, file: Path) -> Iterator[Problem]:
    """Report what this user cannot write: in WAL mode even a reader writes beside the file."""
    for path in (file.parent, file, *(Path(f"{file}-{end}") for end in ("wal", "shm", "journal"))):
        if _is_unwritable(path):
            yield Problem(
                "E014",
                f"the queue's alias {alias!r} is in {str(path)!r}, which this user cannot write",
                f"Let the user of the web server and of the consumers own it: chown USER {path}",
            )
            return


def _is_unwritable(path: Path) -> bool:
    """Return whether a path exists, or is in a folder that cannot be read, and this user cannot write it."""
    if os.access(path, os.W_OK, effective_ids=_EFFECTIVE):
        return False
    try:
        path.stat()
    except OSError as error:
        return isinstance(error, PermissionError)
    return True
