"""Maintenance: what each consumer does for the queue beside its jobs, a little at a time.

It beats, looks after the other consumers, fires schedules, and prunes. It is due by the clock and not
when the queue is quiet, so it goes on under constant load; and it is never a job, which might wait behind
what it should mend.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from uuid import UUID

from djjp import conf
from djjp.consumer.liveness import Presence, Watch, rescue
from djjp.consumer.scheduler import Timekeeper
from djjp.durations import seconds
from djjp.engine import Engine
from djjp.models import State

logger = logging.getLogger("djjp.consumer")

#: Seconds between two looks at the other consumers.
WATCH_EVERY = 0.4
#: Seconds between two heartbeats, at most.
BEAT_EVERY = 5.0
#: Seconds between two looks for jobs that did not start in time and for those that are kept waiting, and
#: between two steps while there are more.
TIDY_EVERY, TIDY_STEP = 1.0, 0.05
#: How many jobs expire in one step, and how many starts are forgotten.
TIDY_ROWS = 500
#: How many rows a step of pruning looks at; a walk over all finished jobs is made of such steps.
PRUNE_ROWS = 1000
#: Seconds between two steps while there is something to prune, and between two walks.
PRUNE_STEP, PRUNE_EVERY = 0.05, 60.0

_FAILED = (State.FAILED, State.CANCELLED)


class Maintenance:
    """The chores of one consumer, each with its own time.

    Args:
        lost: called when others have taken this consumer for dead: its jobs are no longer its own.
    """

    def __init__(self, engine: Engine, presence: Presence, lost: Callable[[], None]) -> None:
        settings = conf.current()
        heartbeat_limit = seconds("heartbeat_limit", settings.heartbeat_limit)
        frozen = None
        if settings.frozen_limit is not None:
            frozen = seconds("frozen_limit", settings.frozen_limit)
        limits = [BEAT_EVERY, heartbeat_limit / 5]
        if frozen is not None:
            limits.append(frozen / 5)
        self._engine = engine
        self._presence = presence
        self._lost = lost
        self._watch = Watch(heartbeat_limit, frozen)
        self._beat_every = min(limits)
        # Whose presence has just begun has said so.
        self._beat_at = time.monotonic() + self._beat_every
        self._watch_at = 0.0
        self._tidy_at = 0.0
        self._let_in_after: str | None = None
        # Consumers that were started together do not walk together.
        self._prune_at = time.monotonic() + random.uniform(0.1, 1) * PRUNE_EVERY / 10  # noqa: S311  (no secret)
        self._walk = Walk()
        self._timekeeper = Timekeeper(engine)

    def due(self) -> float:
        """Seconds until something is to be done."""
        chore = min(self._beat_at, self._watch_at, self._tidy_at, self._prune_at)
        return min(chore - time.monotonic(), self._timekeeper.due())

    def cut_off(self) -> None:
        """The database was away: show at once that this consumer lives, and be slow to judge others."""
        self._beat_at = 0.0
        self._watch.cut_off()

    def beat(self) -> None:
        """Show that this consumer lives, if it is time to.

        It comes before a turn: who was frozen, and was taken for dead, must not claim under a name that
        nobody watches any more.
        """
        now = time.monotonic()
        if now >= self._beat_at:
            self._beat_at = now + self._beat_every
            if not self._presence.beat():
                self._lost()

    def work(self, *, ending: bool) -> bool:
        """Do what else is due; whether jobs may be ready by it.

        Args:
            ending: whether this consumer is about to end: then it begins nothing that can wait.
        """
        now, fresh = time.monotonic(), False
        if now >= self._watch_at:
            self._watch_at = now + WATCH_EVERY
            for peer in self._watch.dead(self._engine, self._presence.name):
                fresh = rescue(self._engine, peer) or fresh
            self._watch_at = min(self._watch_at, time.monotonic() + self._watch.patience_left())
        if now >= self._tidy_at:
            fresh = self._tidy(now) or fresh
        if now >= self._prune_at:
            more = not ending and self._walk.step(self._engine)
            self._prune_at = now + (PRUNE_STEP if more else PRUNE_EVERY)
        if ending:
            self._timekeeper.stop()
        elif self._timekeeper.due() <= 0:
            fresh = self._timekeeper.work(time.time()) or fresh
        return fresh

    def _tidy(self, now: float) -> bool:
        """Cancel what did not start in time, let in what waits though there is room, and forget old starts.

        Returns:
            Whether jobs were let in.
        """
        expired = self._engine.expiry.expire(time.time(), TIDY_ROWS)
        opened, self._let_in_after = self._engine.limits.unblock_stranded(self._let_in_after or "")
        forgotten = self._engine.rates.prune(TIDY_ROWS)
        more = TIDY_ROWS in (expired, forgotten) or self._let_in_after is not None
        self._tidy_at = now + (TIDY_STEP if more else TIDY_EVERY)
        return opened > 0


class Walk:
    """Walks over the finished jobs, and deletes those that were kept long enough."""

    def __init__(self) -> None:
        self._after: dict[tuple[State, ...], UUID | None] = {}

    def step(self, engine: Engine) -> bool:
        """Look at some rows; whether there is more to look at."""
        settings, more = conf.current(), False
        kept = [((State.SUCCEEDED,), settings.keep_succeeded), (_FAILED, settings.keep_failed)]
        for states, keep in kept:
            if keep is None or (self._after and states not in self._after):
                continue
            before = max(
                0.0, time.time() - seconds("keep", keep)
            )  # which is far enough for any span
            count, after = engine.pruning.prune(states, before, self._after.get(states), PRUNE_ROWS)
            if count:
                logger.debug("%d jobs pruned that ended before %s", count, before)
            if after is None:
                self._after.pop(states, None)
            else:
                self._after[states] = after
                more = True
        return more
