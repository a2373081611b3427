"""Deferred writes: outcomes, and jobs to release, whose rows another transaction has locked."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator

from djjp import logs
from djjp.consumer.batch import Batch
from djjp.engine import Claimed, Engine, Outcome

logger = logging.getLogger("djjp.consumer")

#: Seconds after which a write is tried again whose row was locked …
LOCKED_PAUSE = 0.5
#: … and for which each turn then checks for locked rows before it writes.
WARY = 10.0

Write = Outcome | Claimed


class Deferred:
    """The writes that wait for the transactions of others, while all others go on."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: deque[tuple[float, Write]] = deque()
        self._logged: set[int] = set()  # the identities of the jobs whose locked rows were logged
        self._wary_until = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_due(self) -> bool:
        """Return whether a write must be tried again."""
        return bool(self._waiting) and self._waiting[0][0] <= time.monotonic()

    def take_due(self) -> Iterator[Write]:
        """Return the writes that must be tried again, which no longer wait here."""
        while self.is_due:
            yield self._waiting.popleft()[1]

    def add(self, write: Write) -> None:
        """Have a write tried again later."""
        self.be_wary()
        self._waiting.append((time.monotonic() + LOCKED_PAUSE, write))
        job = write.claimed if isinstance(write, Outcome) else write
        if id(job) not in self._logged:
            self._logged.add(id(job))
            logger.warning(
                "another transaction has locked the row of %s %s; its outcome waits",
                job.name,
                job.id,
                extra=logs.of_job(job),
            )

    def forget(self, jobs: Iterable[Claimed]) -> None:
        """Forget jobs that were settled."""
        if self._logged:
            self._logged.difference_update(map(id, jobs))

    # Which rows are locked

    @property
    def is_wary(self) -> bool:
        """Return whether rows were locked by other transactions just now."""
        return time.monotonic() < self._wary_until

    def be_wary(self) -> None:
        """Have the next turns leave out what other transactions have locked."""
        self._wary_until = time.monotonic() + WARY

    def without_locked(self, batch: Batch) -> Batch:
        """Lock the rows of a batch, except those that another transaction has locked, which are left out."""
        jobs = [*(outcome.claimed for outcome in batch.outcomes), *batch.releases]
        free = self.unlocked(jobs)
        if len(free) == len(jobs):
            return batch
        locked = frozenset(map(id, jobs)) - frozenset(map(id, free))
        return batch._replace(
            outcomes=[each for each in batch.outcomes if id(each.claimed) not in locked],
            releases=[job for job in batch.releases if id(job) not in locked],
            locked=locked,
        )

    def unlocked(self, jobs: Collection[Claimed]) -> Collection[Claimed]:
        """Lock the rows of jobs, and return the jobs except those that another transaction has locked."""
        if not jobs:
            return jobs
        elsewhere = self._engine.repair.locked_elsewhere([job.id for job in jobs])
        return [job for job in jobs if job.id not in elsewhere] if elsewhere else jobs
