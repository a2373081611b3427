"""Find the innermost open transaction across databases, which Django knows for each database only.

Django keeps the open `atomic()` blocks of a connection in a list, `connection.atomic_blocks`. Here each
connection gets a list that also numbers the blocks as they are entered, with one counter for all.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any

from django.db import connections
from django.db.backends.signals import connection_created

_numbers = count(1)


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


def innermost(aliases: Iterable[str]) -> str | None:
    """Return the alias among these whose `atomic()` block was entered last; None if none has one open.

    Blocks that were entered before djjp was imported have no number; among connections with such
    blocks only, the first alias is returned.
    """
    inside = [alias for alias in aliases if _connection(alias).in_atomic_block]
    if len(inside) < 2:
        return inside[0] if inside else None
    return max(inside, key=_last_entered)


def is_of_testcase(alias: str) -> bool:
    """Return whether the only open transactions are those that a TestCase wraps around its tests."""
    blocks = _connection(alias).atomic_blocks
    return bool(blocks) and all(block._from_testcase for block in blocks)  # noqa: SLF001  (Django's own mark of such blocks)


def _last_entered(alias: str) -> int:
    blocks = _connection(alias).atomic_blocks
    return blocks.last_entered() if isinstance(blocks, _Blocks) else 0


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
