"""A copy of a live queue, made by SQLite itself: complete, and consistent at one moment."""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

# The number of pages that one call of SQLite copies; a signal interrupts the copy between two calls.
_PAGES = 1000


def copy(source: Path, target: Path) -> None:
    """Copy a database into a new file, which has its name only once it is complete.

    Writers do not wait, and what they commit meanwhile is not in the copy.

    Raises:
        FileExistsError: there is a file of this name.
        OSError: the file cannot be written.
        sqlite3.Error: the database cannot be read.
    """
    if target.exists():
        raise _exists(target)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    # While it is being written nobody else can read it, and then every user who can read the queue.
    os.close(os.open(part, os.O_CREAT | os.O_EXCL, 0o600))
    try:
        _copy(source, part)
        shutil.copymode(source, part)
        _name(part, target)
    finally:
        part.unlink(missing_ok=True)


def _copy(source: Path, part: Path) -> None:
    # A connection of its own: one with an open transaction could not copy.
    uri = f"file:{quote(str(source.absolute()))}?mode=rw"
    with (
        closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as reader,
        closing(sqlite3.connect(part)) as copied,
    ):
        # In one transaction: otherwise the copy starts again whenever another connection has committed.
        reader.execute("BEGIN")
        reader.execute("SELECT 1 FROM sqlite_master").fetchone()
        reader.backup(copied, pages=_PAGES)


def _name(part: Path, target: Path) -> None:
    try:
        target.hardlink_to(part)
    except FileExistsError:
        raise _exists(target) from None
    except OSError:  # a filesystem without hard links
        part.rename(target)


def _exists(target: Path) -> FileExistsError:
    return FileExistsError(f"{target} exists; a backup overwrites no file")
