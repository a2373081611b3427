"""The pruner: deletes finished jobs after their retention time, a few rows at a time."""

from __future__ import annotations

import logging
import time
from uuid import UUID

from djjp import conf, engine
from djjp.durations import seconds
from djjp.engine import Engine
from djjp.models import State

logger = logging.getLogger("djjp.consumer")

#: The number of rows that a step looks at; a walk over all finished jobs is made of such steps.
PRUNE_ROWS = 1000

_SUCCEEDED = (State.SUCCEEDED,)
_FAILED = (State.FAILED, State.CANCELLED)


class Pruner:
    """Walks over the finished jobs and deletes those whose retention time is over.

    Args:
        keep_succeeded: seconds for which succeeded jobs are kept; None for as long as the settings say.
        keep_failed: likewise for failed and cancelled jobs.

    Attributes:
        deleted: the number of jobs deleted so far.
    """

    def __init__(
        self, keep_succeeded: float | None = None, keep_failed: float | None = None
    ) -> None:
        self.deleted = 0
        self._keep_succeeded = keep_succeeded
        self._keep_failed = keep_failed
        # Where the walk for each group of states has come to; empty before the first step and after the last.
        self._after: dict[tuple[State, ...], UUID] = {}

    def step(self, engine: Engine) -> bool:
        """Look at some rows; return whether there are more to look at."""
        settings = conf.current()
        more = False
        for states, given, usual in (
            (_SUCCEEDED, self._keep_succeeded, settings.keep_succeeded),
            (_FAILED, self._keep_failed, settings.keep_failed),
        ):
            keep = usual if given is None else given
            if keep is None or (self._after and states not in self._after):
                continue
            # Nothing ended before 1970: a longer retention time keeps everything, too.
            before = max(0.0, time.time() - seconds("keep", keep))
            count, after = engine.pruning.prune(states, before, self._after.get(states), PRUNE_ROWS)
            self.deleted += count
            if count:
                logger.debug("%d jobs pruned that ended before %s", count, before)
            if after is None:
                self._after.pop(states, None)
            else:
                self._after[states] = after
                more = True
        return more


def prune(keep_succeeded: float | None = None, keep_failed: float | None = None) -> int:
    """Delete all finished jobs whose retention time is over, in small batches; return their number.

    Args:
        keep_succeeded, keep_failed: as `Pruner` takes them.
    """
    pruner = Pruner(keep_succeeded, keep_failed)
    while engine.run(pruner.step):
        pass
    return pruner.deleted
