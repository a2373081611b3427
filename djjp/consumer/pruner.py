"""The pruner: deletes finished jobs after their retention time, a few rows at a time.

A clock that is ahead for a moment must delete nothing. So where two clocks differ, this machine's and that of the
queue's database, the earlier one counts; and a consumer believes a leap of the clock one walk later.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from uuid import UUID

from django.db import IntegrityError

from djjp import conf, engine
from djjp.durations import seconds
from djjp.engine import Engine
from djjp.engine.clocks import AHEAD
from djjp.models import State

logger = logging.getLogger("djjp.consumer")

#: The number of rows that a step reads; a walk over all finished jobs is made of such steps.
PRUNE_ROWS = 1000

_SUCCEEDED = (State.SUCCEEDED,)
_FAILED = (State.FAILED, State.CANCELLED)


class SteadyClock:
    """The time of each walk: a leap counts from the next walk on.

    A consumer can start while the clock is ahead. So the first walk takes place when the newest job was created
    that was there before; in a new queue it takes place now.
    """

    def __init__(self) -> None:
        self._started = time.time()
        self._now = 0.0  # the time of the walk in progress
        self._read: tuple[float, float] | None = (
            None  # the clock at the last walk, and its monotonic time
        )

    def read(self, engine: Engine, new_walk: bool) -> float:
        """Return the time of a walk, in seconds since the epoch."""
        if new_walk:
            now, monotonic = earlier_clock(engine), time.monotonic()
            if self._read is None:
                expected = engine.pruning.newest_job(self._started) or now
            else:
                expected = self._read[0] + monotonic - self._read[1]
            self._now = expected if now > expected + AHEAD else now
            self._read = now, monotonic
        return self._now


def earlier_clock(engine: Engine) -> float:
    """Return the time by this machine's clock or by that of the queue's database, whichever is earlier."""
    return min(time.time(), engine.db.clock())


class Pruner:
    """Walks over the finished jobs and deletes those whose retention time is over.

    Args:
        keep_succeeded: seconds for which succeeded jobs are kept; None for as long as the settings say.
        keep_failed: likewise for failed and cancelled jobs.
        clock: the clock of a consumer; None for a walk that a person has asked for.

    Attributes:
        deleted: the number of jobs deleted so far.
    """

    def __init__(
        self,
        keep_succeeded: float | None = None,
        keep_failed: float | None = None,
        clock: SteadyClock | None = None,
    ) -> None:
        self.deleted = 0
        self._clock = clock
        self._keep_succeeded = keep_succeeded
        self._keep_failed = keep_failed
        # The last job that the walk has read of each group of states; empty before and after a walk.
        self._after: dict[tuple[State, ...], UUID] = {}
        self._references: list[tuple[str, str]] = []  # what keeps jobs from being deleted
        self._logged: set[str] = set()

    def step(self, engine: Engine) -> bool:
        """Read some rows and delete the old ones among them; return whether there are more to read."""
        settings = conf.current()
        more = False
        new_walk = not self._after
        now = self._clock.read(engine, new_walk) if self._clock else earlier_clock(engine)
        for states, given, usual in (
            (_SUCCEEDED, self._keep_succeeded, settings.keep_succeeded),
            (_FAILED, self._keep_failed, settings.keep_failed),
        ):
            keep = usual if given is None else given
            if keep is None or (self._after and states not in self._after):
                continue
            # Nothing ended before 1970: a longer retention time keeps everything, too.
            before = max(0.0, now - seconds("keep", keep))
            count, after = self._prune(engine, states, before)
            self.deleted += count
            if count:
                logger.debug("%d jobs pruned that ended before %s", count, before)
            if after is None:
                self._after.pop(states, None)
            else:
                self._after[states] = after
                more = True
        return more

    def _prune(
        self, engine: Engine, states: tuple[State, ...], before: float
    ) -> tuple[int, UUID | None]:
        """Delete some jobs, except those that another table refers to, which are logged once."""
        step = partial(engine.pruning.prune, states, before, self._after.get(states), PRUNE_ROWS)
        if not self._after:  # a new walk: they may be gone
            self._references = []
        try:
            return step(self._references)
        except IntegrityError:
            self._references = engine.pruning.references()
            if not self._references:
                raise
        for table, column in self._references:
            if table not in self._logged:
                self._logged.add(table)
                logger.warning(
                    "finished jobs are kept after their time, because %s.%s refers to them",
                    table,
                    column,
                )
        return step(self._references)


def prune(keep_succeeded: float | None = None, keep_failed: float | None = None) -> int:
    """Delete all finished jobs whose retention time is over, in small batches; return their number.

    Args:
        keep_succeeded, keep_failed: as `Pruner` takes them.
    """
    pruner = Pruner(keep_succeeded, keep_failed)
    while engine.run(pruner.step):
        pass
    return pruner.deleted
