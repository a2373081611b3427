"""Forks: a forked child is a plain process with connections of its own, and closes nothing of its parent's.

A child gets its parent's connections with their sockets. If it used one, parent and child would read each
other's answers, and a job that was acknowledged would have no row. If it closed one by the protocol, or by
the destructor of a driver, the parent's session would end. If it kept one open, the server would not notice
the death of the parent, and not free the lock by which others see it. So in the child

* each connection of Django that was open is forgotten: the next use of its alias makes a new one;
* its driver's object is kept for good, so that no destructor runs;
* its socket is replaced by the null device, which closes it without a word to the server.

SQLite has no socket, but a state for each file, shared by all connections of a process: which locks the
process has on it. A child inherits the state and not the locks. The state goes with the last connection to
the file, so the child closes those that are at rest, which changes nothing outside of it. A connection in the
middle of a statement or a transaction must not be closed, because that would roll back on the parent's
behalf; so a fork waits until a consumer's coordinator is at rest (`Guard`).
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TypeVar

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from djjp import fork_threads, streams
from djjp.fork_threads import is_in_transaction, is_sqlite
from djjp.weak_groups import WeakGroup

T = TypeVar("T")

# Seconds that a fork waits for a consumer's coordinator.
_LONGEST_WAIT = 5.0
# Seconds between two attempts of a coordinator to go on before a waiting fork.
_YIELD = 0.0005

#: The number of forks between this process and the program that was started.
depth = 0

#: All connections that were ever open, in any thread; `connections` knows those of its own thread only.
_opened: WeakGroup[BaseDatabaseWrapper] = WeakGroup()
_guards: WeakGroup[Guard] = WeakGroup()
# One thread forks at a time.
_fork = threading.RLock()
# What is open at the fork: the child drops the state of all other threads, and no destructor must run.
_open_at_fork: list[tuple[BaseDatabaseWrapper, Any]] = []
# Whether no other thread uses SQLite at the fork.
_alone = False


class Guard:
    """Held by a coordinator while it uses its connections, so that a fork finds them at rest.

    Attributes:
        owner: the thread of the coordinator; None before its first step.
    """

    def __init__(self) -> None:
        self.owner: int | None = None
        self._held = False  # by the owner
        self._lock = threading.RLock()
        self._is_wanted = False  # by the thread that forks
        self._is_at_rest = False
        _guards.add(self)

    def hold(self, step: Callable[[], T]) -> T:
        """Do a step of the coordinator."""
        self._acquire()
        try:
            return step()
        finally:
            self._release()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Let forks happen while the coordinator sleeps in the middle of a step."""
        if not self._held:
            yield
            return
        self._release()
        try:
            yield
        finally:
            self._acquire()

    def _acquire(self) -> None:
        self._lock.acquire()
        self._held, self.owner = True, threading.get_ident()

    def _release(self) -> None:
        self._held = False
        self._lock.release()
        while self._is_wanted:  # without this the same thread would mostly get the lock again
            time.sleep(_YIELD)

    def before_fork(self) -> None:
        """Wait until the coordinator is at rest, though not for long: it can be waiting for a server."""
        self._is_wanted = True
        self._is_at_rest = self._lock.acquire(timeout=_LONGEST_WAIT)
        self._is_wanted = False

    def after_fork(self) -> None:
        """Let the coordinator go on."""
        if self._is_at_rest:
            self._is_at_rest = False
            self._lock.release()

    def is_at_rest(self) -> bool:
        """Return, in a child, whether the fork has found the coordinator at rest."""
        return self._is_at_rest


def in_child(function: Callable[[], None]) -> Callable[[], None]:
    """Have the decorated function called in each forked child."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)
    return function


def end(error: BaseException | None) -> NoReturn:
    """End a child as the interpreter ends a program, but without the exit handlers, which are its parent's.

    Args:
        error: the exception that nothing in the child has caught; None for none.
    """
    code = 0
    with suppress(Exception):  # a stream that is closed
        if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
            code = error.code or 0
        elif error is not None:
            code = 1
            sys.excepthook(type(error), error, error.__traceback__)
    streams.flush()
    os._exit(code)


def _before() -> None:
    global _open_at_fork, _alone
    _fork.acquire()
    for guard in _guards:
        guard.before_fork()
    fork_threads.begin_long_turns()
    _alone = threading.active_count() == 1 or fork_threads.wait_for_sqlite(_open)
    _open_at_fork = _open()


def _open() -> list[tuple[Any, Any]]:
    """Return the open connections of all threads, each with its driver's object."""
    return [(w, w.connection) for w in _opened if w.connection is not None]


def _after_in_parent() -> None:
    global _open_at_fork
    _open_at_fork = []
    fork_threads.end_long_turns()
    for guard in _guards:
        guard.after_fork()
    _fork.release()


def _after_in_child() -> None:
    global depth, _open_at_fork
    depth += 1
    fork_threads.end_long_turns()
    at_rest = {threading.get_ident(), *(guard.owner for guard in _guards if guard.is_at_rest())}
    for wrapper, driver in _open_at_fork:
        if is_in_memory(wrapper):  # a copy, which belongs to the child
            continue
        _keep_for_good(driver)
        if is_sqlite(driver):
            thread: int = wrapper._thread_ident  # type: ignore[attr-defined]  # noqa: SLF001
            if (_alone or thread in at_rest) and not is_in_transaction(driver):
                driver.close()
        else:
            _detach(driver)
        _reset(wrapper)
    for wrapper in _opened:
        pools: dict[str, Any] = getattr(wrapper, "_connection_pools", {})
        if (pool := pools.pop(wrapper.alias, None)) is not None:
            _keep_for_good(pool)  # its threads are the parent's
    _open_at_fork = []
    _guards.clear()
    _fork._at_fork_reinit()  # type: ignore[attr-defined]  # noqa: SLF001  (as the standard library does)
    fork_threads.forget_executors()
    fork_threads.free_locks()


def _reset(wrapper: Any) -> None:
    """Make a connection of Django as if it had never been open."""
    wrapper.connection = None
    wrapper.in_atomic_block = wrapper.needs_rollback = wrapper.closed_in_transaction = False
    wrapper.commit_on_exit = True
    wrapper.savepoint_ids, wrapper.atomic_blocks, wrapper.run_on_commit = [], [], []
    wrapper.run_commit_hooks_on_set_autocommit_on = False


def _keep_for_good(what: object) -> None:
    """Keep an object beyond the end of the interpreter, at which a destructor would still run."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(what))


def _detach(driver: Any) -> None:
    """Replace the socket of a driver's connection, whose number thereby stays taken, by the null device."""
    with suppress(Exception):  # a driver without a socket, or one that has closed it
        number = driver.fileno()
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, number, inheritable=False)
        os.close(null)


def is_in_memory(wrapper: Any) -> bool:
    """Return whether a connection of Django's is to a database that no other connection can see."""
    return hasattr(wrapper, "is_in_memory_db") and bool(wrapper.is_in_memory_db())


def _note(connection: BaseDatabaseWrapper, **kwargs: object) -> None:
    _opened.add(connection)


connection_created.connect(_note, dispatch_uid="djjp.forks")
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
