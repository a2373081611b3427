"""Bookkeeping: the chores by which consumers add up the totals, sample the depths, and delete what is old of
both.

One consumer at a time does them: the first one that sends heartbeats, in the order of names. Two that do them
at a time do no harm, because the database decides who adds an entry and who writes a sample.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from djjp.consumer.chores import Chores
from djjp.engine import Engine
from djjp.engine.depths import first_hour

#: Seconds between two looks at the entries, and between two steps of an addition.
ADD_EVERY, ADD_STEP = 1.0, 0.05
#: The number of entries with which they are added up before their minute is over. To add up costs the same for
#: one entry and for many, where each has figures of all names.
ADD_FROM = 300
#: Where an addition takes long, because jobs of many names have ended, the next one comes after this many
#: times as long, or after `ADD_AT_LATEST` seconds.
ADD_SHARE, ADD_AT_LATEST = 100, 10.0
#: The steps of additions that a consumer takes at its end.
LAST_STEPS = 5
#: Seconds between two looks for what is old, and between two steps while there is more.
PRUNE_EVERY, PRUNE_STEP = 60.0, 0.05


class Bookkeeping:
    """The chores of one consumer.

    Args:
        leads: returns whether this consumer is the one that does them.
    """

    def __init__(self, engine: Engine, chores: Chores, leads: Callable[[], bool]) -> None:
        self._engine = engine
        self._chores = chores
        self._leads = leads
        now = time.monotonic()
        self._add_at = now + ADD_EVERY
        self._prune_at = now + PRUNE_EVERY
        self._thinned_to = first_hour(time.time())
        self._added = int(time.time()) // 60  # the minute of the last addition of all entries
        self._after = 0  # the last entry of this minute's additions
        self._sampled = 0  # the last minute of which this consumer has seen a sample

    def due_at(self) -> float:
        """Return when the next chore is due, on the monotonic clock."""
        return min(self._add_at, self._prune_at)

    def work(self) -> None:
        """Do the chores that are due."""
        now = time.monotonic()
        if now >= self._add_at:
            self._add(now)
            self._sample()
        if now >= self._prune_at:
            more = self._leads() and self._chores.do("prune totals", self._prune)
            self._prune_at = now + (PRUNE_STEP if more else PRUNE_EVERY)

    def finish(self) -> None:
        """Add up entries if there are many: where each consumer lives for less than a minute, no other does it."""
        if self._has_many():
            self._chores.do("add up totals", self._add_last)

    def _add(self, now: float) -> None:
        """Add up entries once their minute is over, or once there are many."""
        self._add_at = now + ADD_EVERY
        minute = int(time.time()) // 60
        if not self._leads() or (minute == self._added and not self._has_many()):
            return
        if minute != self._added:
            self._after = 0
        added = self._chores.do(
            "add up totals", lambda: self._engine.history.add_entries(self._after)
        )
        if added is not None:
            self._after = added.last
            if not added.more:
                self._added = minute
        took = time.monotonic() - now
        pause = min(max(ADD_EVERY, ADD_SHARE * took), ADD_AT_LATEST)
        self._add_at = now + took + (ADD_STEP if added is not None and added.more else pause)

    def _has_many(self) -> bool:
        has_many = partial(self._engine.history.has_entries, ADD_FROM, self._after)
        return bool(self._chores.do("count the entries of totals", has_many))

    def _add_last(self) -> None:
        for _ in range(LAST_STEPS):
            if not self._engine.history.add_entries().more:
                return

    def _sample(self) -> None:
        now = time.time()
        minute = int(now) // 60 * 60
        if minute != self._sampled and self._leads():
            self._sampled = minute
            self._chores.do("sample depths", lambda: self._engine.depths.sample(minute, now))

    def _prune(self) -> bool:
        """Delete some rows, by the clock that is earlier; return whether there are more."""
        now = min(time.time(), self._engine.db.clock())
        start, self._thinned_to = self._thinned_to, self._engine.depths.thin(self._thinned_to, now)
        more = self._engine.history.prune(now)
        return self._engine.depths.prune(now) or more or self._thinned_to > start
