"""Maintenance: the chores that each consumer does for the queue beside its jobs, a little at a time.

It sends heartbeats, rescues the jobs of dead consumers, fires schedules, tidies and prunes. The chores are
due by the clock and not when the queue is quiet, so they go on under constant load. None of them is a job,
because a job might wait behind the fault that it should repair.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from djjp import conf
from djjp.consumer.failure_detector import FailureDetector
from djjp.consumer.heartbeat import Heartbeat
from djjp.consumer.pruner import Pruner
from djjp.consumer.rescue import rescue
from djjp.consumer.scheduler import Scheduler
from djjp.durations import seconds
from djjp.engine import Engine

#: Seconds between two looks for dead consumers.
DETECT_EVERY = 0.4
#: The most seconds between two heartbeats.
BEAT_EVERY = 5.0
#: Seconds between two looks for jobs that expired and for jobs that are blocked though a permit is free, and
#: between two steps while there are more.
TIDY_EVERY, TIDY_STEP = 1.0, 0.05
#: The number of jobs that expire in one step, and of counted starts that are deleted.
TIDY_ROWS = 500
#: Seconds between two steps while there is something to prune, and between two walks.
PRUNE_STEP, PRUNE_EVERY = 0.05, 60.0


class Maintenance:
    """The chores of one consumer, each with its own time.

    Args:
        on_declared_dead: called when others have declared this consumer dead: its jobs are no longer its own.
    """

    def __init__(
        self, engine: Engine, heartbeat: Heartbeat, on_declared_dead: Callable[[], None]
    ) -> None:
        settings = conf.current()
        heartbeat_limit = seconds("heartbeat_limit", settings.heartbeat_limit)
        frozen_limit = None
        intervals = [BEAT_EVERY, heartbeat_limit / 5]
        if settings.frozen_limit is not None:
            frozen_limit = seconds("frozen_limit", settings.frozen_limit)
            intervals.append(frozen_limit / 5)
        self._engine = engine
        self._heartbeat = heartbeat
        self._on_declared_dead = on_declared_dead
        self._detector = FailureDetector(heartbeat_limit, frozen_limit)
        self._scheduler = Scheduler(engine)
        self._pruner = Pruner()
        self._beat_every = min(intervals)
        # To register was the first heartbeat.
        self._beat_at = time.monotonic() + self._beat_every
        self._detect_at = 0.0
        self._tidy_at = 0.0
        self._tidied_key: str | None = None  # where the search for stranded jobs has come to
        # At random, so that consumers that were started together do not prune together.
        self._prune_at = time.monotonic() + random.uniform(0.1, 1) * PRUNE_EVERY / 10  # noqa: S311  (no secret)

    def due(self) -> float:
        """Return the seconds until the next chore is due."""
        chore = min(self._beat_at, self._detect_at, self._tidy_at, self._prune_at)
        return min(chore - time.monotonic(), self._scheduler.due())

    def after_outage(self) -> None:
        """Send a heartbeat at once, and declare nobody dead for a while: the database was away."""
        self._beat_at = 0.0
        self._detector.pause()

    def beat(self) -> None:
        """Send a heartbeat, if one is due.

        It comes before a turn, because a consumer that was frozen and declared dead must not claim under a
        name that nobody watches any more.
        """
        now = time.monotonic()
        if now >= self._beat_at:
            self._beat_at = now + self._beat_every
            if not self._heartbeat.beat():
                self._on_declared_dead()

    def work(self, *, ending: bool) -> bool:
        """Do the other chores that are due; return whether jobs may have become ready.

        Args:
            ending: whether this consumer is about to end: then it begins nothing that can wait.
        """
        now, ready = time.monotonic(), False
        if now >= self._detect_at:
            ready = self._rescue(now)
        if now >= self._tidy_at:
            ready = self._tidy(now) or ready
        if now >= self._prune_at:
            more = not ending and self._pruner.step(self._engine)
            self._prune_at = now + (PRUNE_STEP if more else PRUNE_EVERY)
        if ending:
            self._scheduler.stop()
        elif self._scheduler.due() <= 0:
            ready = self._scheduler.work(time.time()) or ready
        return ready

    def _rescue(self, now: float) -> bool:
        """Rescue the jobs of dead consumers; return whether jobs were made ready."""
        self._detect_at, ready = now + DETECT_EVERY, False
        for peer in self._detector.find_dead(self._engine, self._heartbeat.name):
            ready = rescue(self._engine, peer) or ready
        self._detect_at = min(self._detect_at, time.monotonic() + self._detector.due())
        return ready

    def _tidy(self, now: float) -> bool:
        """Cancel expired jobs, unblock jobs for which a permit is free, and delete old counted starts.

        Returns:
            Whether jobs were unblocked.
        """
        expired = self._engine.expiry.expire(time.time(), TIDY_ROWS)
        unblocked, self._tidied_key = self._engine.limits.unblock_stranded(self._tidied_key or "")
        deleted = self._engine.rates.prune(TIDY_ROWS)
        more = TIDY_ROWS in (expired, deleted) or self._tidied_key is not None
        self._tidy_at = now + (TIDY_STEP if more else TIDY_EVERY)
        return unblocked > 0
