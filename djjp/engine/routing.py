"""Calls of the engine: on this thread, or through the consumer that runs this job.

A consumer lends its jobs no connection to the queue. Inside a job a call therefore travels to the consumer's
coordinator, which executes it in its next turn: `run()` hides the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from typing import Protocol, TypeVar

from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import InterfaceError, OperationalError, connections

from djjp import conf
from djjp.engine.database import Database
from djjp.engine.engine import Engine
from djjp.exceptions import QueueUnavailable

T = TypeVar("T")

_DATABASES = {
    "sqlite": ("djjp.engine.sqlite.database", "SQLiteDatabase"),
    "postgresql": ("djjp.engine.postgresql.database", "PostgreSQLDatabase"),
}


class Coordinator(Protocol):
    """Executes calls on the consumer's one queue connection, on behalf of its jobs."""

    def call(self, verb: Callable[[Engine], T]) -> T: ...

    async def acall(self, verb: Callable[[Engine], T]) -> T: ...


#: Set around each job that a consumer runs.
coordinator: ContextVar[Coordinator | None] = ContextVar("djjp_coordinator", default=None)
#: Set in a coroutine job: returns whether the job has used no thread for databases, and so no transaction.
can_skip_thread: ContextVar[Callable[[], bool]] = ContextVar(
    "djjp_can_skip_thread", default=lambda: False
)


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
    """Return the engine of an alias, independent of `DJJP`."""
    return _engine(connections.settings[alias]["ENGINE"], alias)


@cache
def _engine(backend: str, alias: str) -> Engine:
    vendor = connections[alias].vendor
    if vendor not in _DATABASES:
        raise ImproperlyConfigured(
            f"DATABASES[{alias!r}] runs on {vendor!r}; djjp claims jobs on SQLite and PostgreSQL"
        )
    module, name = _DATABASES[vendor]
    database: type[Database] = getattr(import_module(module), name)
    return Engine(database(alias))


def run(verb: Callable[[Engine], T]) -> T:
    """Call `verb` with the engine: here, or inside a consumer's job in the coordinator's next turn.

    A lost connection, for example after a restart of the server, is replaced, and `verb` is called again: it
    must be safe to call twice.

    Raises:
        QueueUnavailable: the queue's database did not take the call in time.
    """
    consumer = coordinator.get()
    return _here(verb) if consumer is None else consumer.call(verb)


async def arun(verb: Callable[[Engine], T]) -> T:
    """Do `run` in a coroutine; inside a consumer's job it takes no thread."""
    consumer = coordinator.get()
    return await (sync_to_async(_here)(verb) if consumer is None else consumer.acall(verb))


def _here(verb: Callable[[Engine], T]) -> T:
    engine = current()
    try:
        return verb(engine)
    except (OperationalError, InterfaceError) as error:
        connection = engine.db.connection
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
        if connection.in_atomic_block or connection.connection is not None:
            raise _unavailable(engine, error) from error
    try:
        return verb(engine)
    except (OperationalError, InterfaceError) as error:
        raise _unavailable(engine, error) from error


def _unavailable(engine: Engine, error: Exception) -> QueueUnavailable:
    return QueueUnavailable(
        f"the queue's database {engine.db.alias!r} did not take the call: {error}"
    )
