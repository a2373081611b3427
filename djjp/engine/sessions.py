"""Sessions after an error: which are of no use any more, and what callers get instead of a driver's error.

A session can be alive and useless: its server has become read-only, or has forgotten a prepared statement. A
test of the connection finds nothing wrong with it. So each error that is not clearly the fault of one call, or of
another session that held a lock, costs the session.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from django.db import DataError, IntegrityError, ProgrammingError
from django.db import Error as DatabaseError
from django.db.transaction import TransactionManagementError

from djjp.engine.refusals import Refusal
from djjp.exceptions import QueueUnavailable

#: What a database raises for the values of one call, and Django for a transaction in which a statement has failed.
#: Callers get these as they are.
REFUSED = (IntegrityError, DataError, TransactionManagementError)


class Database(Protocol):
    """The part of `djjp.engine.database.Database` that is used here."""

    alias: str

    @property
    def connection(self) -> Any: ...

    def classify(self, error: BaseException) -> Refusal: ...


def is_shared(error: Exception, db: Database) -> bool:
    """Return whether an error concerns all calls of a transaction, because no single one caused it."""
    if isinstance(error, ProgrammingError):
        return isinstance(error, TransactionManagementError)
    return db.classify(error) is not Refusal.CONTENT


def drop(db: Database, error: Exception) -> bool:
    """Close this thread's connection after an error, so that the next statement gets a new session.

    Returns:
        Whether it was closed: not inside a transaction, and not after a wait.
    """
    if db.connection.in_atomic_block or db.classify(error).keeps_session:
        return False
    db.connection.close()
    return True


def unavailable(db: Database, error: Exception) -> QueueUnavailable:
    """Return what a caller gets for an error of the database."""
    raised = QueueUnavailable(f"the queue's database {db.alias!r} did not take the call: {error}")
    raised.__cause__ = error
    return raised


def is_outage(db: Database, error: Exception) -> bool:
    """Return whether an error that was raised outside `run()` is an outage of this database.

    It can be one of another database, as of an outbox: then this thread's connection has met none.
    """
    return db.connection.errors_occurred and db.classify(error).is_outage


@contextmanager
def translated(db: Database) -> Iterator[None]:
    """Raise `QueueUnavailable` for an error of the database, after which the next call has a new session."""
    try:
        yield
    except REFUSED:
        raise
    except DatabaseError as error:
        drop(db, error)
        raise unavailable(db, error) from error
