"""Database connections around a job: none is left broken, too old, or open to the queue.

What Django does at the ends of a request (`close_old_connections`) is done at the ends of a job, on
the job's thread. Listing a thread's connections costs more than a small job does, so it is skipped for
a thread that is known to have none open.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.db import connections
from django.db.backends.signals import connection_created

from djjp import conf


class _Thread(threading.local):
    may_have_open = True
    kept = False


_thread = _Thread()


def tidy() -> None:
    """Close this thread's connections that are unusable or past their age, and those to the queue.

    A job may look into the queue by the ORM, but a consumer keeps to one connection there. Django takes
    a transaction that is still open for a job's mistake, and closes its connection too; so where it is not
    one, as inside a TestCase, the connections are `kept()`.
    """
    if not _thread.may_have_open or _thread.kept:
        return
    queue = conf.current().db_name
    open_ones = False
    for connection in connections.all(initialized_only=True):
        if connection.alias == queue != "default" and not connection.in_atomic_block:
            connection.close()
        else:
            connection.close_if_unusable_or_obsolete()
        open_ones = open_ones or connection.connection is not None
    _thread.may_have_open = open_ones


@contextmanager
def preserve() -> Iterator[None]:
    """Keep this thread's open connections as they are for the jobs of the block; close those the jobs open."""
    before = {id(connection) for connection in _open()}
    outer, _thread.kept = _thread.kept, True
    try:
        yield
    finally:
        _thread.kept = outer
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
        with suppress(Exception):  # whatever state it is in
            connection.close()
        del connections[connection.alias]


def _opened(**kwargs: Any) -> None:
    _thread.may_have_open = True


connection_created.connect(_opened, dispatch_uid="djjp.consumer.connections")
