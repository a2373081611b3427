"""The connections of a process that enqueues: their number is bounded, whatever server runs its requests.

Django gives each thread a connection of its own, and keeps the queue's open. That fits servers with a few threads
that stay. An ASGI server runs each request on a new thread, gevent on a new greenlet, some WSGI servers too. So
only the first few threads that call the queue have a connection of their own; all others, and every request under
ASGI, take one of a few that the process shares, for the time of one call.

Inside a transaction of the queue's alias, the thread's own connection is used: the call belongs to it.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from weakref import WeakSet

from asgiref.sync import SyncToAsync
from django.core.signals import request_finished
from django.db import OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from djjp import conf, forks

#: The number of threads of a process with a connection of their own, and of connections that all others share.
OWN, SHARED = 4, 4
#: Seconds that a call waits for one of the shared connections.
_PATIENCE = 30.0


class Database(Protocol):
    """The part of `djjp.engine.database.Database` that is used here."""

    alias: str

    @property
    def connection(self) -> Any: ...


_lock = threading.Lock()
#: The connections of threads that have one of their own, open or not.
_owned: WeakSet[BaseDatabaseWrapper] = WeakSet()
_idle: dict[str, list[Any]] = defaultdict(list)
_free = threading.BoundedSemaphore(SHARED)


def must_share(own: BaseDatabaseWrapper) -> bool:
    """Return whether a call must take a shared connection: its thread's own one, which is closed, must stay so."""
    if own.alias == "default" or forks.is_in_memory(own):
        return False
    # A test has put something in the way of this connection, or counts its statements.
    if own.force_debug_cursor or own.execute_wrappers or {"cursor", "connect"} & vars(own).keys():
        return False
    return _is_of_request() or not _may_own(own)


@contextmanager
def shared(db: Database) -> Iterator[None]:
    """Give this thread a shared connection for the time of the block.

    Raises:
        OperationalError: none has become free.
    """
    free, idle = _free, _idle[db.alias]
    if not free.acquire(timeout=_PATIENCE):
        raise OperationalError(
            f"the {SHARED} connections that this process shares were in use for {_PATIENCE:.0f} s"
        )
    try:
        own, lent = db.connection, idle.pop() if idle else _new(db.alias)
        connections[db.alias] = lent
        try:
            yield
        finally:
            connections[db.alias] = own
            idle.append(lent)
    finally:
        free.release()


def note(connection: BaseDatabaseWrapper) -> None:
    """Count a connection to the queue that was just opened, also one that the ORM has opened."""
    if not hasattr(connection, "djjp_shared"):
        with _lock:
            _owned.add(connection)


def _may_own(own: BaseDatabaseWrapper) -> bool:
    """Return whether a thread is one of the first; a place is free again once its thread has ended."""
    with _lock:
        if own not in _owned:
            if sum(each.alias == own.alias for each in _owned) >= OWN:
                return False
            _owned.add(own)
        return True


def _is_of_request() -> bool:
    """Return whether this thread is one that an ASGI server has started for one request."""
    return SyncToAsync.thread_sensitive_context.get(None) is not None


def _new(alias: str) -> Any:
    new: Any = connections.create_connection(alias)
    new.inc_thread_sharing()
    new.djjp_shared = True
    return new


def _close_own(**kwargs: object) -> None:
    """Close what a request under ASGI has opened by the ORM: its thread ends, and nothing else would close it."""
    alias = conf.db_name()
    if alias == "default" or not _is_of_request():
        return
    for own in connections.all(initialized_only=True):
        if own.alias == alias and not own.in_atomic_block:
            own.close()


@forks.in_child
def _forget() -> None:
    """Start anew in a child: its parent's threads, which have lent connections, are not there."""
    global _free, _lock
    _lock, _free = threading.Lock(), threading.BoundedSemaphore(SHARED)
    _idle.clear()


request_finished.connect(_close_own, dispatch_uid="djjp.engine.sharing")
