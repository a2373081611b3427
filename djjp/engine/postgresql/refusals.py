"""Refusals of PostgreSQL, by the SQLSTATE of the error."""

from __future__ import annotations

from typing import Any

from django.db import Error as DatabaseError
from django.db import InterfaceError, OperationalError

from djjp.engine.refusals import Refusal, of_others

_LOCK_NOT_AVAILABLE, _QUERY_CANCELED, _OUT_OF_MEMORY = "55P03", "57014", "53200"
_CONFLICTS = {"40001", "40P01"}
# With an error of such a severity the server, or a pooler, ends the session.
_ENDS_SESSION = {"FATAL", "PANIC"}
# The classes in which a session or a server refuses every statement: no connection, a read-only or otherwise wrong
# transaction state, a prepared statement that is lost, no access, no such database or table, no resources, a
# server that ends, the system around it.
_OUTAGES = {"08", "0A", "25", "26", "28", "3D", "3F", "42", "53", "57", "58", "F0"}


def classify(error: BaseException) -> Refusal:
    """Return the kind of an error."""
    if not isinstance(error, DatabaseError):
        return of_others(error)
    cause: Any = error.__cause__
    state: str | None = getattr(cause, "sqlstate", None)
    if state is None:
        # Raised by the driver: without a connection, or because it cannot read or send a value.
        connection = isinstance(error, (OperationalError, InterfaceError))
        return Refusal.LOST if connection else Refusal.CONTENT
    if cause.diag.severity_nonlocalized in _ENDS_SESSION:
        return Refusal.LOST
    if state in _CONFLICTS:
        return Refusal.CONFLICT
    if state == _LOCK_NOT_AVAILABLE:
        return Refusal.LOCKED
    # A statement that was cancelled took too long, and one without memory needs too much: parts of it may not.
    if state in (_QUERY_CANCELED, _OUT_OF_MEMORY):
        return Refusal.CONTENT
    return Refusal.OUTAGE if state[:2] in _OUTAGES else Refusal.CONTENT
