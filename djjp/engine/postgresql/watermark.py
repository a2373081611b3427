"""Low-water marks: how far the claims of a session have come, beyond what is dead and cannot be removed.

PostgreSQL keeps an entry in its indexes for each state that a job was in, until no snapshot sees that
state any more. Usually a claim that meets dead entries marks them as such, and the next one does not meet
them. While an old snapshot is open in the queue's database they all stay, before the first ready job, and
a claim that begins at the start of its index passes one for each job that was claimed since.

So a claim counts now and then what it passes. Where that is a pile, the next ones begin behind the last job
that was claimed, for each priority. Such a mark is a hint and nothing more, for a job with a smaller id can become
ready at any time: retried, promoted, given back, let go by another one, or committed late. What holds:

* A claim that comes back short begins again at the start, and so does a look that finds nothing.
* After a second, or somewhat more where the pile is large, a claim begins at the start in any case. If
  that finds jobs before the marks, the marks go back to them, and the claims go on from there in order.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID
from weakref import WeakKeyDictionary

#: How many dead entries a claim passes before marks are worth it: as many cost about as much as marks do.
PILE = 3_000
# Seconds between two claims from the start: as many times what the last one took, within these bounds.
TIMES, SOONEST, LATEST = 20.0, 1.0, 10.0
# More marks, or more sets of queues, than this are forgotten; claims begin at the start and make new ones.
_MOST_MARKS, _MOST_SETS = 500, 100

#: Beyond what a priority can be, and below each id.
ABOVE, BELOW, FIRST = 32_768, -32_769, UUID(int=0)


class Part(NamedTuple):
    """A part of a queue's order: one priority behind a mark, then what lies between it and the next."""

    queue: str | None
    priority: int
    mark: UUID
    below: int


class Marks:
    """How far a session has come with one set of queues."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str | None, int], UUID] = {}
        self._piled = False
        self._look_at = 0.0

    @property
    def usable(self) -> bool:
        """Whether a claim may begin behind the marks."""
        return self._piled and time.monotonic() < self._look_at

    @property
    def wanting(self) -> bool:
        """Whether a claim from the start should count what it passes."""
        return self._piled or time.monotonic() >= self._look_at

    def looked(self, passed: int, seconds: float) -> None:
        """Note what a claim from the start has passed in vain, and how long it took."""
        self._piled = passed > PILE
        self._look_at = time.monotonic() + min(max(SOONEST, TIMES * seconds), LATEST)

    def reached(self, claimed: Iterable[tuple[str | None, int, UUID]], *, back: bool) -> None:
        """Note the last id of each priority that was claimed; only `back` sets a mark to a smaller one."""
        last: dict[tuple[str | None, int], UUID] = {}
        for queue, priority, id in claimed:
            last[queue, priority] = max(last.get((queue, priority), FIRST), id)
        if len(self._ids) + len(last) > _MOST_MARKS:
            self._ids.clear()
        for place, id in last.items():
            self._ids[place] = id if back else max(self._ids.get(place, FIRST), id)

    def parts(self, queues: Sequence[str] | None) -> list[Part]:
        """The order of each queue, or of all together, in parts that begin behind the marks."""
        marked: defaultdict[str | None, list[int]] = defaultdict(list)
        for queue, priority in self._ids:
            marked[queue].append(priority)
        found = []
        for queue in [None] if queues is None else queues:
            priorities = sorted(marked[queue], reverse=True)
            ends = [*priorities, BELOW]
            for priority, below in zip([ABOVE, *priorities], ends, strict=True):
                mark = self._ids.get((queue, priority), FIRST)
                found.append(Part(queue, priority, mark, below))
        return found


_Served = tuple[tuple[str, ...] | None, tuple[str, ...]]
#: By the session, which one thread at a time has: a lost connection's marks go with it.
_sessions: WeakKeyDictionary[Any, dict[_Served, Marks]] = WeakKeyDictionary()


def marks_of(session: Any, queues: Sequence[str] | None, without: Sequence[str]) -> Marks:
    """The marks of a driver's connection for these queues, passing over these names."""
    found = _sessions.setdefault(session, {})
    served = (None if queues is None else tuple(queues), tuple(without))
    if served not in found and len(found) >= _MOST_SETS:
        found.clear()
    return found.setdefault(served, Marks())
