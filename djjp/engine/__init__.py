"""The storage floor: `queue()` gives the verbs of the queue on the database that holds it.

A consumer lends its jobs no queue connection. Inside a job the verbs therefore travel to the
consumer's coordinator, which runs them in its next turn: `call()` hides the difference.
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
from djjp.engine.database import moment
from djjp.engine.jobs import Claims, Listener
from djjp.engine.rates import SLACK
from djjp.engine.records import (
    NOBODY,
    Claimed,
    Edge,
    Failure,
    Held,
    Holder,
    NewGraph,
    NewJob,
    Outcome,
    Peer,
    Problem,
    Progress,
    Screened,
)
from djjp.exceptions import QueueUnavailable

__all__ = [
    "NOBODY",
    "SLACK",
    "Claimed",
    "Claims",
    "Coordinator",
    "Edge",
    "Failure",
    "Held",
    "Holder",
    "Listener",
    "NewGraph",
    "NewJob",
    "Outcome",
    "Peer",
    "Problem",
    "Progress",
    "Screened",
    "acall",
    "call",
    "coordinator",
    "moment",
    "on",
    "queue",
    "unattended",
]

T = TypeVar("T")

_STRATEGIES = {
    "sqlite": ("djjp.engine.sqlite.jobs", "SQLiteClaims"),
    "postgresql": ("djjp.engine.postgresql.jobs", "PostgreSQLClaims"),
}


class Coordinator(Protocol):
    """Runs verbs on the consumer's one queue connection, on behalf of its jobs."""

    def call(self, verb: Callable[[Claims], T]) -> T: ...

    async def acall(self, verb: Callable[[Claims], T]) -> T: ...


#: Set around each job that a consumer runs.
coordinator: ContextVar[Coordinator | None] = ContextVar("djjp_coordinator", default=None)
#: Set in a coroutine job: whether it has used no thread for databases so far, and therefore no transaction.
unattended: ContextVar[Callable[[], bool]] = ContextVar("djjp_unattended", default=lambda: False)


def queue() -> Claims:
    """The verbs of the queue on `DJJP["db_name"]`, on this thread's connection.

    Raises:
        ImproperlyConfigured: the alias is not in `DATABASES`, or its engine is none that djjp has a
            way to claim on.
    """
    alias = conf.current().db_name
    if alias not in connections.settings:
        raise ImproperlyConfigured(f"DJJP['db_name'] is {alias!r}, which is no alias in DATABASES")
    return on(alias)


def on(alias: str) -> Claims:
    """The verbs on the database of an alias, whatever `DJJP` says."""
    return _strategy(connections.settings[alias]["ENGINE"], alias)(alias)


@cache
def _strategy(engine: str, alias: str) -> type[Claims]:
    vendor = connections[alias].vendor
    if vendor not in _STRATEGIES:
        raise ImproperlyConfigured(
            f"DATABASES[{alias!r}] runs on {vendor!r}; djjp claims jobs on SQLite and PostgreSQL"
        )
    module, name = _STRATEGIES[vendor]
    strategy: type[Claims] = getattr(import_module(module), name)
    return strategy


def call(verb: Callable[[Claims], T]) -> T:
    """Run `verb` on the queue: here, or inside a consumer's job in the coordinator's next turn.

    A connection that was lost, as when the server was restarted, is replaced and the verb run again:
    so a verb has to do no harm when it is done twice.

    Raises:
        QueueUnavailable: the queue's database did not take it in time.
    """
    desk = coordinator.get()
    return _here(verb) if desk is None else desk.call(verb)


async def acall(verb: Callable[[Claims], T]) -> T:
    """`call` for coroutines: inside a consumer's job it takes no thread."""
    desk = coordinator.get()
    return await (sync_to_async(_here)(verb) if desk is None else desk.acall(verb))


def _here(verb: Callable[[Claims], T]) -> T:
    claims = queue()
    try:
        return verb(claims)
    except (OperationalError, InterfaceError) as error:
        connection = claims.connection
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
        if connection.in_atomic_block or connection.connection is not None:
            raise _unavailable(claims, error) from error
    try:
        return verb(claims)
    except (OperationalError, InterfaceError) as error:
        raise _unavailable(claims, error) from error


def _unavailable(claims: Claims, error: Exception) -> QueueUnavailable:
    return QueueUnavailable(f"the queue's database {claims.alias!r} did not take the call: {error}")
