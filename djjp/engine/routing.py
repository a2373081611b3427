"""Calls of the engine: on this thread, or through the consumer that runs this job.

A consumer lends its jobs no connection to the queue. Inside a job a call therefore travels to the consumer's
coordinator, which executes it in its next turn: `run()` hides the difference.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from typing import Protocol, TypeVar

from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from djjp import conf, forks
from djjp.engine import entries, sessions, sharing
from djjp.engine.database import Database
from djjp.engine.engine import Engine
from djjp.engine.refusals import Refusal
from djjp.exceptions import OutcomeUnknown, QueueUnavailable

T = TypeVar("T")

# How often a call is made that others make fail.
_TRIES = 5

_DATABASES = {
    "sqlite": ("djjp.engine.sqlite.database", "SQLiteDatabase"),
    "postgresql": ("djjp.engine.postgresql.database", "PostgreSQLDatabase"),
}


class CallQueue(Protocol):
    """Executes calls on the consumer's one queue connection, on behalf of its jobs."""

    def call(self, verb: Callable[[Engine], T]) -> T: ...

    async def acall(self, verb: Callable[[Engine], T]) -> T: ...


#: Set around each job that a consumer runs.
current_call_queue: ContextVar[CallQueue | None] = ContextVar("djjp_call_queue", default=None)
#: Set in a coroutine job: returns whether the job has used no thread for databases, and so no transaction.
can_skip_thread: ContextVar[Callable[[], bool]] = ContextVar(
    "djjp_can_skip_thread", default=lambda: False
)


@forks.in_child
def _leave_call_queue() -> None:
    """Have the child of a job call the engine on a connection of its own: its parent serves the call queue."""
    current_call_queue.set(None)
    can_skip_thread.set(lambda: False)


def current() -> Engine:
    """Return the engine of `DJJP["db_name"]`.

    Raises:
        ImproperlyConfigured: the alias is not in `DATABASES`, or djjp has no claim strategy for its engine.
    """
    alias = conf.current().db_name
    if alias not in connections.settings:
        raise ImproperlyConfigured(f"DJJP['db_name'] is {alias!r}, which is no alias in DATABASES")
    return for_alias(alias)


def for_alias(alias: str) -> Engine:
    """Return the engine of an alias, independent of `DJJP`.

    Raises:
        ImproperlyConfigured: its entry in `DATABASES` has a wrong value, or djjp has no claim strategy for it.
    """
    return _engine(connections.settings[alias]["ENGINE"], alias)


@cache
def _engine(backend: str, alias: str) -> Engine:
    if problem := entries.problem(alias):
        raise ImproperlyConfigured(problem)
    vendor = connections[alias].vendor
    if vendor not in _DATABASES:
        raise ImproperlyConfigured(
            f"DATABASES[{alias!r}] runs on {vendor!r}; djjp claims jobs on SQLite and PostgreSQL"
        )
    module, name = _DATABASES[vendor]
    database: type[Database] = getattr(import_module(module), name)
    return Engine(database(alias))


def run(verb: Callable[[Engine], T], own: BaseDatabaseWrapper | None = None) -> T:
    """Call `verb` with the engine: here, or inside a consumer's job in the coordinator's next turn.

    Inside a transaction of the queue's own alias it is called here, in that transaction: the coordinator could not
    see what it has written, and on SQLite would wait for its end.

    A session that is lost, as after a restart of the server, or useless, as on a server that has become
    read-only, is replaced, and `verb` is called again: it must be safe to call twice.

    Args:
        own: this thread's connection to the queue; None to look it up.

    Raises:
        QueueUnavailable: the queue's database did not take the call in time.
        ImproperlyConfigured: its entry in `DATABASES` has a wrong value.
        OutcomeUnknown: it is not known whether it took the call.
    """
    call_queue = current_call_queue.get()
    if call_queue is None or _in_transaction(own or connections[conf.db_name()]):
        return _here(verb, own)
    return call_queue.call(verb)


async def arun(verb: Callable[[Engine], T]) -> T:
    """Do `run` in a coroutine; inside a consumer's job it takes no thread."""
    call_queue = current_call_queue.get()
    return await (sync_to_async(_here)(verb) if call_queue is None else call_queue.acall(verb))


def _in_transaction(connection: BaseDatabaseWrapper) -> bool:
    by_hand = connection.connection is not None and not connection.autocommit
    return connection.in_atomic_block or by_hand


def _here(verb: Callable[[Engine], T], own: BaseDatabaseWrapper | None = None) -> T:
    engine = current() if own is None else for_alias(own.alias)
    own = own or engine.db.connection
    if own.connection is not None or not sharing.must_share(own):
        return _call(verb, engine, own)
    with sessions.translated(engine.db), sharing.shared(engine.db):
        return _call(verb, engine, engine.db.connection)


def _call(verb: Callable[[Engine], T], engine: Engine, connection: BaseDatabaseWrapper) -> T:
    """Call a verb, again on a new session if this one is lost or useless, and again after conflicts."""
    db = engine.db
    conflicts, renewed, may_be_written = 0, False, False
    while True:
        try:
            if connection.connection is None:
                _connect(engine)
            db.confirm(connection)
            result = verb(engine)
            db.confirm(connection)
            return result
        except sessions.REFUSED:
            raise
        except QueueUnavailable as error:
            raise _outcome(error, may_be_written=may_be_written) from error.__cause__
        except DatabaseError as error:
            refusal = db.classify(error)
            # The connection may have been lost after a commit, with the answer to it. `verb` writes nothing twice.
            may_be_written |= refusal is Refusal.LOST and not connection.in_atomic_block
            if refusal is Refusal.CONFLICT and not connection.in_atomic_block:
                conflicts += 1
                again = conflicts < _TRIES
                time.sleep(random.uniform(0, 0.05))  # noqa: S311  (no secret)
            else:
                again = sessions.drop(db, error) and refusal.is_outage and not renewed
                renewed = True
            if not again:
                unavailable = sessions.unavailable(db, error)
                raise _outcome(unavailable, may_be_written=may_be_written) from error


def _connect(engine: Engine) -> None:
    try:
        entries.connect(engine.db.alias)
    except DatabaseError as error:
        raise sessions.unavailable(engine.db, error) from error


def _outcome(error: QueueUnavailable, *, may_be_written: bool) -> QueueUnavailable:
    """Return what a caller gets for a call that was given up."""
    if not may_be_written:
        return error
    return OutcomeUnknown(
        f"{error}; the connection broke during the call, which may have been written"
    )


def _adopt(connection: BaseDatabaseWrapper, **kwargs: object) -> None:
    """Let the queue's database prepare each of its new connections, also those that the ORM opens."""
    if connection.alias == conf.db_name() and connection.vendor in _DATABASES:
        sharing.note(connection)
        for_alias(connection.alias).db.adopt(connection)


connection_created.connect(_adopt, dispatch_uid="djjp.engine.routing")
