"""Observations: the incidents that only this consumer can notice, and that no table shows.

A watchdog, a listener and a sweeper notice them on their own threads or within their own work. The coordinator
takes them here, and writes them as rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from djjp.consumer.heartbeat import ConsumerName
from djjp.consumer.pool import Pool
from djjp.consumer.pool.loop_watchdog import Blocked
from djjp.engine import Engine, Listener
from djjp.engine.incidents import Found
from djjp.monitoring.conditions import SKEW, clock_skew
from djjp.monitoring.detection import behind
from djjp.outbox.sweeper import Sweeper

#: Seconds between two comparisons of the clocks.
COMPARE_EVERY = 15.0


class Observations:
    """Collect the incidents that one consumer notices.

    Args:
        listener: returns its listener, once there is one.
    """

    def __init__(
        self,
        engine: Engine,
        pool: Pool,
        sweeper: Sweeper,
        listener: Callable[[], Listener | None],
    ) -> None:
        self._engine = engine
        self._pool = pool
        self._sweeper = sweeper
        self._listener = listener
        self._compare_at = 0.0

    def take(self, consumer: str) -> list[Found]:
        """Return what was noticed since the last call, or holds at present."""
        host = ConsumerName(consumer).host
        found = [*self._blocked(consumer), *self._behind()]
        listener = self._listener()
        problem = None if listener is None else listener.unheard()
        if problem is not None:
            found.append(Found("unheard", host, {"problem": problem, "consumer": consumer}))
        if time.monotonic() >= self._compare_at:
            self._compare_at = time.monotonic() + COMPARE_EVERY
            found += self._skew(consumer, host)
        return found

    def _blocked(self, consumer: str) -> list[Found]:
        """Return the jobs that have blocked the event loop."""
        reports: dict[str, list[Blocked]] = {}
        while self._pool.blocked:
            each = self._pool.blocked.popleft()
            reports.setdefault(each.name, []).append(each)
        return [
            Found(
                "loop_blocked",
                name,
                {
                    "times": sum(not each.again for each in blocks),
                    "longest": round(max(each.seconds for each in blocks), 2),
                    "at": blocks[-1].at,
                    "consumer": consumer,
                },
                sums=["times"],
                peaks=["longest"],
            )
            for name, blocks in reports.items()
        ]

    def _behind(self) -> list[Found]:
        """Return the outboxes whose rows wait although this consumer sweeps them."""
        waits = [(lag.alias, lag.seconds()) for lag in self._sweeper.lags]
        return [behind(alias, wait, consumers=True) for alias, wait in waits if wait is not None]

    def _skew(self, consumer: str, host: str) -> list[Found]:
        """Return how far the clock of this machine is off, by that of the queue's database."""
        before = time.time()
        database = self._engine.db.clock()
        after = time.time()
        # It was read at some time in between.
        ahead, is_behind = before - database, database - after
        if max(ahead, is_behind) <= SKEW:
            return []
        return [clock_skew(host, ahead if ahead > 0 else -is_behind, consumer)]
