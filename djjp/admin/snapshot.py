"""Snapshots: the facts of all open dashboards of a web process, read once a second at most.

The first request that needs them reads; others get what it has read, or wait for it. If a read fails, waiting
requests get its error, and the next request reads again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from contextlib import ExitStack, contextmanager
from typing import Any, Generic, NamedTuple, TypeVar

from django.core.signals import setting_changed
from django.db import connections
from django.dispatch import receiver

from djjp import conf, engine, forks
from djjp.engine import Engine
from djjp.exceptions import QueueUnavailable
from djjp.outbox import table
from djjp.weak_groups import WeakGroup

T = TypeVar("T")

#: Seconds for which a snapshot is shown, and the part of the time for which one thread may read at most.
SHOWN, LOAD = 1.0, 0.05
#: Seconds that a request waits for the read of another one.
PATIENCE = 20.0


class Cost(NamedTuple):
    """The cost of a read: the number of statements, and the seconds."""

    statements: int
    seconds: float


class Taken(NamedTuple, Generic[T]):
    """A snapshot.

    Attributes:
        at: when it was taken, in seconds since the epoch.
    """

    value: T
    cost: Cost
    at: float


class Snapshots(Generic[T]):
    """The snapshots of a function by its argument, of which there are few.

    Args:
        read: reads what is shown.
    """

    def __init__(self, read: Callable[[str], T]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._found: dict[tuple[str, str], _Entry[T]] = {}
        _all.add(self)

    def get(self, key: str = "") -> Taken[T]:
        """Return the snapshot of this moment, from this thread's read or from another one's.

        Raises:
            QueueUnavailable: the queue's database does not answer, or not in time.
        """
        place = (conf.db_name(), key)
        with self._lock:
            entry = self._found.get(place)
            is_mine = entry is None or not entry.is_shown()
            if entry is None or is_mine:
                entry = self._found[place] = _Entry()
        if is_mine:
            self._fill(place, entry)
        try:
            return entry.future.result(PATIENCE)
        except NotInTime:
            raise QueueUnavailable(
                f"the queue's database has not answered within {PATIENCE:.0f} s"
            ) from None

    def _fill(self, place: tuple[str, str], entry: _Entry[T]) -> None:
        try:
            entry.set(_taken(lambda: self._read(place[1])))
        except BaseException as error:  # noqa: BLE001  (for the waiting requests)
            with self._lock:
                if self._found.get(place) is entry:
                    del self._found[place]
            entry.future.set_exception(error)

    def clear(self) -> None:
        """Forget what was read, because it has changed."""
        with self._lock:
            self._found.clear()

    def after_fork(self) -> None:
        """Begin anew in a child, where no thread ends the reads of the parent."""
        self._lock = threading.Lock()
        self._found = {}


_all: WeakGroup[Snapshots[Any]] = WeakGroup()


def clear() -> None:
    """Forget all snapshots: their facts have changed."""
    for each in _all:
        each.clear()


@forks.in_child
def _begin_anew() -> None:
    for each in _all:
        each.after_fork()


class _Entry(Generic[T]):
    """A snapshot, or the read of one that goes on."""

    def __init__(self) -> None:
        self.future: Future[Taken[T]] = Future()
        self._until = 0.0

    def set(self, taken: Taken[T]) -> None:
        # A read that takes long is not made again and again.
        self._until = time.monotonic() + max(SHOWN, taken.cost.seconds * (1 / LOAD - 1))
        self.future.set_result(taken)

    def is_shown(self) -> bool:
        return not self.future.done() or time.monotonic() < self._until


def _taken(read: Callable[[], T]) -> Taken[T]:
    began, at = time.monotonic(), time.time()

    # In one call of the engine, so that all statements are on one connection.
    def verb(engine: Engine) -> tuple[T, int]:
        with _counted(engine) as statements:
            value = read()
        return value, len(statements)

    value, statements = engine.run(verb)
    return Taken(value, Cost(statements, time.monotonic() - began), at)


@contextmanager
def _counted(engine: Engine) -> Iterator[list[None]]:
    """Count the statements on the databases of the queue and of outboxes in this block."""
    made: list[None] = []

    def count(execute: Callable[..., Any], *statement: Any) -> Any:
        made.append(None)
        return execute(*statement)

    with ExitStack() as stack:
        for alias in {engine.db.alias, *table.outboxes()}:
            stack.enter_context(connections[alias].execute_wrapper(count))
        yield made


@receiver(setting_changed, dispatch_uid="djjp.admin.snapshot")
def _settings_changed(**kwargs: object) -> None:
    """Forget all snapshots when a test changes the settings."""
    clear()
