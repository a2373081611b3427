"""Refusals of SQLite, by the code of the result."""

from __future__ import annotations

import sqlite3

from django.db import Error as DatabaseError
from django.db import InterfaceError, OperationalError

from djjp.engine.refusals import Refusal, of_others
from djjp.engine.sqlite.file import FileRemoved

# A consumer waits for the one lock of the file as for an outage: whatever it writes needs that lock.
_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_OUTAGES = {
    sqlite3.SQLITE_INTERNAL,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_ABORT,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_SCHEMA,
    sqlite3.SQLITE_MISUSE,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_NOTADB,
}


def classify(error: BaseException) -> Refusal:
    """Return the kind of an error."""
    if not isinstance(error, DatabaseError):
        return of_others(error)
    if isinstance(error, FileRemoved):
        return Refusal.BUSY
    code = getattr(error.__cause__, "sqlite_errorcode", None)
    text = str(error)
    if code is None:
        # Raised by Python's driver, without a connection or because it cannot read or bind a value; or by djjp.
        connection = isinstance(error, (OperationalError, InterfaceError))
        lost = "closed" in text or (connection and not text.startswith("Could not decode"))
        return Refusal.LOST if lost else Refusal.CONTENT
    code &= 0xFF
    if code in _LOCKED:
        return Refusal.BUSY
    if code == sqlite3.SQLITE_IOERR:
        return Refusal.LOST
    # A missing table or column has no code of its own.
    all_refused = code in _OUTAGES or text.startswith("no such ")
    return Refusal.OUTAGE if all_refused else Refusal.CONTENT
