"""Low-water marks: how far the claims of a session have come, past dead index entries that cannot be removed.

PostgreSQL keeps an entry in its indexes for each state that a job was in, until no snapshot can see that
state any more. Usually a claim that reads dead entries marks them as dead, and the next claim skips them.
While an old snapshot is open in the queue's database they all stay, before the first ready job, and
a claim that starts at the beginning of its index reads one for each job that was claimed since.

So a claim counts from time to time the entries that it reads. Where these are many, the next claims start after
the last job that was claimed, for each priority. Such a mark is only a hint, because a job with a smaller id can
become ready at any time: retried, promoted, released, unblocked, or committed late. These rules hold:

* A claim that returns fewer jobs than its limit starts again at the beginning of the index, and so does a query
  that finds no ready job.
* After a second, or somewhat more where the dead entries are many, a claim starts at the beginning in any case. If
  it finds jobs before the marks, the marks go back to them, and the claims continue from there in order.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID
from weakref import WeakKeyDictionary

#: The number of dead entries from which marks pay: to read them costs about as much as to use marks.
DEAD_ENTRIES = 3_000
# Seconds between two claims from the beginning: a multiple of the last one's duration, within these bounds.
PAUSE_FACTOR, SHORTEST_PAUSE, LONGEST_PAUSE = 20.0, 1.0, 10.0
# Beyond these numbers all marks are forgotten; claims start at the beginning and make new ones.
_MAX_MARKS, _MAX_SETS = 500, 100

#: Above and below each priority, and below each id.
ABOVE, BELOW, FIRST = 32_768, -32_769, UUID(int=0)


class Part(NamedTuple):
    """A part of a queue's order: one priority after its mark, then the priorities down to `below`."""

    queue: str | None
    priority: int
    mark: UUID
    below: int


class Marks:
    """How far a session has come with one set of queues."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str | None, int], UUID] = {}
        self._has_dead_entries = False
        self._due_at = 0.0

    @property
    def valid(self) -> bool:
        """Return whether a claim can start after the marks."""
        return self._has_dead_entries and time.monotonic() < self._due_at

    @property
    def due(self) -> bool:
        """Return whether a claim from the beginning must count the dead entries that it reads."""
        return self._has_dead_entries or time.monotonic() >= self._due_at

    def observe(self, dead: int, seconds: float) -> None:
        """Record the dead entries that a claim from the beginning has read, and its duration."""
        self._has_dead_entries = dead > DEAD_ENTRIES
        pause = min(max(SHORTEST_PAUSE, PAUSE_FACTOR * seconds), LONGEST_PAUSE)
        self._due_at = time.monotonic() + pause

    def advance(
        self, claimed: Iterable[tuple[str | None, int, UUID]], *, may_go_back: bool
    ) -> None:
        """Move the marks to the last claimed id of each priority; only if `may_go_back` also to a smaller id."""
        last: dict[tuple[str | None, int], UUID] = {}
        for queue, priority, id in claimed:
            last[queue, priority] = max(last.get((queue, priority), FIRST), id)
        if len(self._ids) + len(last) > _MAX_MARKS:
            self._ids.clear()
        for key, id in last.items():
            self._ids[key] = id if may_go_back else max(self._ids.get(key, FIRST), id)

    def parts(self, queues: Sequence[str] | None) -> list[Part]:
        """Return the order of each queue, or of all queues together, in parts that start after the marks."""
        marked: defaultdict[str | None, list[int]] = defaultdict(list)
        for queue, priority in self._ids:
            marked[queue].append(priority)
        parts = []
        for queue in [None] if queues is None else queues:
            priorities = sorted(marked[queue], reverse=True)
            ends = [*priorities, BELOW]
            for priority, below in zip([ABOVE, *priorities], ends, strict=True):
                mark = self._ids.get((queue, priority), FIRST)
                parts.append(Part(queue, priority, mark, below))
        return parts


_Selection = tuple[tuple[str, ...] | None, tuple[str, ...]]
#: By session, which only one thread uses at a time. A lost connection takes its marks with it.
_sessions: WeakKeyDictionary[Any, dict[_Selection, Marks]] = WeakKeyDictionary()


def marks_of(session: Any, queues: Sequence[str] | None, exclude_names: Sequence[str]) -> Marks:
    """Return the marks of a driver's connection for claims from these queues, without jobs of these names."""
    marks = _sessions.setdefault(session, {})
    selection = (None if queues is None else tuple(queues), tuple(exclude_names))
    if selection not in marks and len(marks) >= _MAX_SETS:
        marks.clear()
    return marks.setdefault(selection, Marks())
