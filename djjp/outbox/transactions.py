"""Open transactions: which one an enqueue belongs to, and which ones a relay must not write in.

Django knows the open transactions of each database only. It keeps the open `atomic()` blocks of a connection
in a list, `connection.atomic_blocks`. Here each connection gets a list that also numbers the blocks as they
are entered, with one counter for all.

A connection whose autocommit is off is in a transaction too, which its owner commits by hand.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connections
from django.db.backends.signals import connection_created

from djjp.engine import Holder

_numbers = count(1)

# The number of unique keys that are remembered of one transaction.
_MOST_KEYS = 10_000


class _Blocks(list[Any]):
    """Open `atomic()` blocks, outermost first, and the number of each."""

    def __init__(self) -> None:
        super().__init__()
        self._entered: list[int] = []

    def append(self, block: Any) -> None:
        super().append(block)
        self._entered.append(next(_numbers))

    def pop(self, index: Any = -1) -> Any:
        del self._entered[index]
        return super().pop(index)

    def last_entered(self) -> int:
        return self._entered[-1] if self._entered else 0

    def transaction(self) -> int | None:
        """Return the number of the outermost block, except a TestCase's; None outside of all."""
        blocks = zip(self, self._entered, strict=True)
        return next((number for block, number in blocks if not block._from_testcase), None)  # noqa: SLF001  (Django's own mark)


class _Enqueued(NamedTuple):
    """The jobs that a transaction has enqueued, and its number."""

    transaction: int
    ids: set[UUID]


def innermost(aliases: Iterable[str]) -> str | None:
    """Return the alias among these whose `atomic()` block was entered last; None if none has a transaction open.

    Blocks that were entered before djjp was imported have no number, nor has a transaction without a block;
    among such connections only, the first alias is returned.
    """
    inside = [alias for alias in aliases if is_open(alias)]
    if len(inside) < 2:
        return inside[0] if inside else None
    return max(inside, key=_last_entered)


def is_open(alias: str) -> bool:
    """Return whether what is written there is committed later, or never: by `atomic()`, or by hand."""
    connection = _connection(alias)
    return connection.in_atomic_block or not _has_autocommit(connection)


def commit_each_statement(alias: str) -> None:
    """Turn autocommit on where the settings of a database turn it off, and nobody would commit what is written."""
    connection = connections[alias]
    if not connection.settings_dict["AUTOCOMMIT"]:
        connection.set_autocommit(True)


def is_manual(alias: str) -> bool:
    """Return whether the open transaction is committed by hand: Django then runs no `on_commit()` hook."""
    connection = _connection(alias)
    if connection.in_atomic_block:
        return not connection.commit_on_exit
    return not _has_autocommit(connection)


def record(connection: Any, ids: Iterable[UUID]) -> None:
    """Record the jobs that the open transaction of this connection enqueues or retries, if there is one."""
    number = _number_of(connection)
    if number is None:
        return
    known: _Enqueued | None = vars(connection).get("djjp_enqueued")
    if known is None or known.transaction != number:
        known = connection.djjp_enqueued = _Enqueued(number, set())
    known.ids.update(ids)


def enqueuing(id: UUID) -> str | None:
    """Return the alias whose open transaction has enqueued or retried this job or pipeline; None if none has."""
    for connection in connections.all(initialized_only=True):
        known: _Enqueued | None = vars(connection).get("djjp_enqueued")
        if known is not None and id in known.ids and known.transaction == _number_of(connection):
            return connection.alias
    return None


def unique_keys(alias: str) -> dict[str, tuple[UUID, Holder]]:
    """Return the unique keys of jobs that the open transaction of this alias has enqueued, to read and to add to.

    By key: the job that was enqueued, and the job whose handle it got. A savepoint that is rolled back takes its
    jobs along, not their keys: the caller checks that the job is still there.
    """
    connection = _connection(alias)
    number = _number_of(connection)
    known: tuple[int | None, dict[str, tuple[UUID, Holder]]]
    known = vars(connection).get("djjp_unique_keys") or (None, {})
    if known[0] != number or len(known[1]) > _MOST_KEYS:
        known = (number, {})
    connection.djjp_unique_keys = known
    return known[1]


def is_of_testcase(alias: str) -> bool:
    """Return whether the only open transactions are those that a TestCase wraps around its tests."""
    blocks = _connection(alias).atomic_blocks
    return bool(blocks) and all(block._from_testcase for block in blocks)  # noqa: SLF001  (Django's own mark of such blocks)


def commits_at_once(alias: str) -> bool:
    """Return whether what is written there now is committed when the statement is done.

    A TestCase's own transaction counts as none, because its tests work as if it were not there.
    """
    return not is_open(alias) or is_of_testcase(alias)


def _has_autocommit(connection: Any) -> bool:
    if connection.connection is None:  # it gets what its settings say when it connects
        return bool(connection.settings_dict["AUTOCOMMIT"])
    return bool(connection.autocommit)


def _last_entered(alias: str) -> int:
    blocks = _connection(alias).atomic_blocks
    return blocks.last_entered() if isinstance(blocks, _Blocks) else 0


def _number_of(connection: Any) -> int | None:
    blocks = connection.atomic_blocks
    return blocks.transaction() if isinstance(blocks, _Blocks) else None


def _connection(alias: str) -> Any:
    connection: Any = connections[alias]
    if not connection.atomic_blocks:
        _number(connection)
    return connection


def _number(connection: Any, **kwargs: Any) -> None:
    if not isinstance(connection.atomic_blocks, _Blocks):
        connection.atomic_blocks = _Blocks()


# A connection gets a new plain list each time it connects.
connection_created.connect(_number, dispatch_uid="djjp.outbox.transactions")
