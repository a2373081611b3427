"""Groups of living objects that the threads of a process add to and read at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")


class WeakGroup(Generic[T]):
    """The objects that were added and that are still alive.

    While it is iterated, other threads can add to it; a `WeakSet` raises RuntimeError then.
    """

    def __init__(self) -> None:
        self._by_id: WeakValueDictionary[int, T] = WeakValueDictionary()

    def add(self, member: T) -> None:
        """Add an object, unless it is there already."""
        self._by_id[id(member)] = member

    def clear(self) -> None:
        """Forget all objects."""
        self._by_id.clear()

    def __iter__(self) -> Iterator[T]:
        # The references are listed in one step of the interpreter.
        living = [reference() for reference in self._by_id.valuerefs()]
        return iter([member for member in living if member is not None])
