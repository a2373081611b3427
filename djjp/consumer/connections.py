"""Database connections around a job: none stays broken, too old, or open to the queue.

Django closes such connections at the start and the end of a request (`close_old_connections`), and clears the
log of statements that DEBUG fills (`reset_queries`). The same happens here at the start and the end of a job, on
the job's thread. To list a thread's connections costs more
than a small job does, so a thread that is known to have none open skips it.

With a `CONN_MAX_AGE` of 0, Django's default, each job would connect anew, which takes longer than most jobs. So a
thread of a pool keeps such a connection for its next job (`keep()`), until the thread has had no job for a moment
(`rest()`). Django checks a kept connection before the first statement of each job. The next job must not find
what a job has changed in its session: after a statement that can change it, the connection is closed at the end
of the job.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import CellType
from typing import Any

from django.db import connections
from django.db.backends.signals import connection_created

from djjp import conf
from djjp.consumer import session_state
from djjp.engine import Claimed
from djjp.fork_threads import is_sqlite

logger = logging.getLogger("djjp.consumer")

#: Seconds without a job after which a thread closes the connections that it keeps.
REST = 1.0
#: Seconds after which a kept connection is closed although its thread never rests: a server can be replaced
#: behind its address while the connections to the old one live.
KEPT = 60.0

# The alias, of no database, under which a thread has the connection of the last transaction that was left open.
_ENDED = "ended with its job"

_NOT_CLOSED = "the connection to %r could not be closed"


class ThreadState:
    """The state of the connections of one thread.

    Attributes:
        may_have_open: whether one can be open, so that jobs must call `tidy()`.
        has_kept: whether one is open that its `CONN_MAX_AGE` of 0 would have closed.
        keeps: whether the thread keeps such connections, after `keep()`.
        preserves: whether the thread is inside `preserve()`.
    """

    def __init__(self) -> None:
        self.may_have_open = True
        self.has_kept = self.keeps = self.preserves = False


class _Local(threading.local):
    def __init__(self) -> None:
        self.state = ThreadState()


_local = _Local()


def of_thread() -> ThreadState:
    """Return the state of the calling thread, which a thread can read once for many jobs."""
    return _local.state


def keep() -> ThreadState:
    """Keep connections from job to job on this thread, whatever their `CONN_MAX_AGE`; it must call `rest()`."""
    thread = of_thread()
    thread.keeps = True
    return thread


def rest() -> None:
    """Close the connections that this thread keeps, because it has no job."""
    thread = of_thread()
    thread.has_kept = False
    for connection in connections.all(initialized_only=True):
        if _is_kept(connection):
            try:
                connection.close()
            except Exception:
                logger.exception(_NOT_CLOSED, connection.alias)
                del connections[connection.alias]
    thread.may_have_open = bool(_open())


def tidy(job: Claimed, *, ended: bool) -> None:
    """Put this thread's connections in order, at the start or the end of a job.

    A connection is closed if it is unusable, past its age, or to the queue: a job can read the queue by the ORM,
    but a consumer keeps only one connection there. A transaction that is still open is rolled back. Where it is
    not the job's own, as inside a TestCase, `preserve()` prevents that.

    Args:
        job: the job that starts or has ended.
        ended: whether it has ended, and can have left something in the sessions.
    """
    thread = of_thread()
    if not thread.may_have_open or thread.preserves:
        return
    queue = conf.current().db_name
    any_open = has_kept = False
    for connection in connections.all(initialized_only=True):
        try:
            if connection.in_atomic_block:
                _end_transaction(connection, job)
            elif connection.alias == queue != "default":
                connection.close()
            else:
                connection.close_if_unusable_or_obsolete()
                if _is_kept(connection):
                    has_kept = True
                    if ended:
                        _end_session(connection)
        except Exception:
            logger.exception(_NOT_CLOSED, connection.alias)
            del connections[connection.alias]
        if connection.queries_log and not connection.force_debug_cursor:
            connection.queries_log.clear()  # which DEBUG fills
        any_open = any_open or connection.connection is not None
    thread.may_have_open, thread.has_kept = any_open, has_kept


def _is_kept(connection: Any) -> bool:
    """Return whether a connection is open only because its thread keeps it for the next job."""
    return of_thread().keeps and connection.connection is not None and _can_be_kept(connection)


def _can_be_kept(connection: Any) -> bool:
    """Return whether each job would open the connection anew; one of Django's pool goes back to other threads."""
    settings = connection.settings_dict
    if connection.alias == conf.db_name() != "default":
        return False
    return settings["CONN_MAX_AGE"] == 0 and not settings["OPTIONS"].get("pool")


def _end_session(connection: Any) -> None:
    """End the transaction and the reads that a job has left unfinished on a kept connection, or close it."""
    try:
        connection.connection.rollback()  # of a BEGIN that the job has executed; Django does not know of it
        if is_sqlite(connection.connection):
            _replace_probe(connection)
    except Exception:  # noqa: BLE001  (of any driver; a new connection is always right)
        connection.close()


def _replace_probe(connection: Any) -> None:
    """Replace an SQL function, which SQLite refuses while a read is unfinished.

    Such a read, as of an iterator that a job has put aside, would show the next job old rows.
    """
    connection.connection.create_function("djjp_probe", 0, int)


def _watch(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
    """Execute a statement on a kept connection, which is closed after the job if its session may be changed."""
    if not session_state.is_unchanged_by(sql):
        context["connection"].close_at = 0.0
    return execute(sql, params, many, context)


def _end_transaction(connection: Any, job: Claimed) -> None:
    """Roll back a transaction that a job has left open, in a generator that it keeps, for example.

    The `atomic()` block is left later, when the generator is closed, and would then end whatever transaction is
    open on its alias. So it gets the closed connection, on which leaving a block does nothing.
    """
    logger.error(
        "%s %s has left a transaction open on %r; it is rolled back",
        job.name,
        job.id,
        connection.alias,
    )
    for block in connection.atomic_blocks:
        # One that decorates a function is entered again by later calls; it belongs to a closure.
        if not any(isinstance(holder, CellType) for holder in gc.get_referrers(block)):
            block.using = _ENDED
    del connections[connection.alias]
    connections[_ENDED] = connection
    connection.close()


@contextmanager
def preserve() -> Iterator[None]:
    """Keep this thread's open connections during the block, and close those that its jobs open."""
    before = {id(connection) for connection in _open()}
    thread = of_thread()
    outer, thread.preserves = thread.preserves, True
    try:
        yield
    finally:
        thread.preserves = outer
        for connection in _open():
            if id(connection) not in before and not connection.in_atomic_block:
                connection.close()


def _open() -> list[Any]:
    return [c for c in connections.all(initialized_only=True) if c.connection is not None]


def replace() -> None:
    """Close this thread's connections and forget them, so that the next use makes new ones.

    Needed after an exception was raised at an arbitrary point of the thread: Django can be left assuming
    that a transaction is open, and then no job on this thread could use the connection again.
    """
    for connection in connections.all(initialized_only=True):
        del connections[connection.alias]
        with suppress(Exception):  # the connection can be in any state
            connection.close()


def _opened(connection: Any, **kwargs: Any) -> None:
    thread = of_thread()
    thread.may_have_open = True
    if thread.keeps and _can_be_kept(connection):
        connection.close_at = time.monotonic() + KEPT
        connection.health_check_enabled = True
        if _watch not in connection.execute_wrappers:
            connection.execute_wrappers.insert(0, _watch)  # around those of the project
        if is_sqlite(connection.connection):
            _replace_probe(connection)


connection_created.connect(_opened, dispatch_uid="djjp.consumer.connections")
