"""`new_id()`: UUIDs of version 7, in the order in which this process made them.

The enqueuer makes the id, so it knows it before any database does; their order in time is the
queue's first in, first out, and keeps inserts at the end of the index. Layout: RFC 9562, section
5.7, with the fraction of the millisecond in the 12 bits after the version (method 3).
"""

from __future__ import annotations

import os
import struct
import threading
import time
from uuid import UUID, SafeUUID

_lock = threading.Lock()
_last = 0
# Random tails of ids, drawn many at a time: to ask the system for one takes as long as all the rest.
_tails: list[int] = []
_DRAWN = 256


def new_id() -> UUID:
    """A new UUIDv7, greater than each one that this process made before it.

    Two processes agree to within their clocks. The fraction has steps of 1/4096 ms (244 ns): ids made
    within one step, or after the clock went back, take the next step.
    """
    return _of(_ticks(1))


def new_ids(count: int) -> list[UUID]:
    """As many new ids, one after the other."""
    first = _ticks(count)
    return [_of(tick) for tick in range(first, first + count)]


def _ticks(count: int) -> int:
    """The first of so many steps of the clock that belong to nobody else."""
    global _last
    tick = time.time_ns() * 4096 // 1_000_000
    with _lock:
        if tick <= _last:
            tick = _last + 1
        _last = tick + count - 1
    return tick


def _of(tick: int) -> UUID:
    return _from_int((tick >> 12 << 80) | (0x7000 | tick & 0xFFF) << 64 | 1 << 63 | _tail())


def made_at(id: UUID) -> float:
    """When `new_id()` made an id, in seconds since the epoch."""
    ticks = (id.int >> 80) * 4096 + (id.int >> 64 & 0xFFF)
    return ticks / 4_096_000


def from_hex(text: str) -> UUID:
    """The id of its 32 hexadecimal digits: for a queue's own column, whose form is known.

    `UUID(text)` looks for braces, dashes and versions first, and takes three times as long.
    """
    return _from_int(int(text, 16))


def _from_int(number: int) -> UUID:
    """`UUID(int=number)`, which checks more and takes four times as long."""
    id = _make(UUID)
    _set_int(id, number)
    _set_safe(id, _UNKNOWN)
    return id


# A UUID refuses to be changed; its slots themselves do not.
_make, _UNKNOWN = object.__new__, SafeUUID.unknown
_set_int, _set_safe = vars(UUID)["int"].__set__, vars(UUID)["is_safe"].__set__


def _tail() -> int:
    """62 random bits that no other thread or process draws."""
    while True:
        try:
            return _tails.pop()
        except IndexError:
            drawn = struct.unpack(f"{_DRAWN}Q", os.urandom(8 * _DRAWN))
            _tails.extend([number >> 2 for number in drawn])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_tails.clear)
