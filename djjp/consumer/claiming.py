"""Claiming: how many jobs a consumer claims, from which queues, and when a claim may find any."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from uuid import UUID

from djjp.consumer.ledger import Ledger
from djjp.consumer.read_ahead import ReadAhead
from djjp.consumer.serving import QueueSelector, Selection
from djjp.engine import Admitted, Claimed, Engine, Outcome
from djjp.jobs import registry
from djjp.models import Flag, State

logger = logging.getLogger("djjp.consumer")


class Claimer:
    """Claims jobs on behalf of one ledger.

    Args:
        limit: the number of jobs that run at the same time.
        max_jobs: claim no more than this number of executions; None for no such bound.
        on_pause: called when a queue was paused, because jobs of it may be waiting to start.

    Attributes:
        read_ahead: how many jobs to claim beyond the free slots.
        may_have_ready: whether a claim may find a ready job.
        next_due: when the next scheduled job is due, as last read; None where there is none.
        stopped: whether to claim and promote no more.
    """

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        queues: QueueSelector,
        *,
        limit: int = 1,
        max_jobs: int | None = None,
        on_pause: Callable[[], None] = lambda: None,
    ) -> None:
        self.read_ahead = ReadAhead()
        self.may_have_ready = True
        self.next_due: float | None = None
        self.stopped = False
        self.max_jobs = max_jobs
        self._engine = engine
        self._ledger = ledger
        self._queues = queues
        self._limit = limit
        self._on_pause = on_pause
        self._unknown: list[str] = []  # names of jobs that are not registered here

    # How many, and when

    def room(self, stalled: int, ended: int = 0) -> int:
        """Return the number of jobs to claim, for the free slots and ahead.

        Args:
            stalled: the number of slots that are not expected to become free soon.
            ended: the number of held jobs whose outcomes are about to be written.
        """
        if self.stopped:
            return 0
        held = len(self._ledger) - ended
        room = self._limit + self.read_ahead.size(self._limit - stalled) - held
        if self.max_jobs is not None:
            room = min(room, self.max_jobs - self._ledger.executed - ended - held)
        return max(0, room)

    @property
    def is_spent(self) -> bool:
        """Return whether `max_jobs` executions are done."""
        return self.max_jobs is not None and self._ledger.executed >= self.max_jobs

    def is_due(self, now: float) -> bool:
        """Return whether a scheduled job must be promoted."""
        return self.next_due is not None and self.next_due <= now and not self.stopped

    def is_idle(self, now: float) -> bool:
        """Return whether there is nothing to claim and nothing to promote, as far as is known."""
        return not self.may_have_ready and not self.is_due(now)

    def finds_ready(self, room: int) -> bool:
        """Look for a ready job before a transaction is opened for nothing but a claim."""
        if room and self.may_have_ready:
            self.may_have_ready = any(
                self._engine.jobs.has_ready(names, self._unknown) for _, names in self._selections()
            )
            return self.may_have_ready
        return False

    def refresh(self, now: float) -> None:
        """Read what others may have changed: scheduled jobs and paused queues; ready jobs may be new, too."""
        self.next_due = self._engine.jobs.next_due()
        self.may_have_ready = True
        self.notice_pauses(self._engine.queues.paused(now))

    def notice_pauses(self, paused: frozenset[str]) -> bool:
        """Claim from these queues no more; return whether one of them was not paused before."""
        new = paused - self._queues.paused
        self._queues.paused = paused
        if new:
            self._on_pause()
        return bool(new)

    def expect_retries(self, retries: Sequence[Outcome]) -> None:
        """Remember when jobs that have failed will run again: at once, or when they are due."""
        for outcome in retries:
            if outcome.state == State.READY:
                self.may_have_ready = True
            elif outcome.run_after is not None:
                self.next_due = min(self.next_due or outcome.run_after, outcome.run_after)

    # The claim

    def claim(self, room: int, now: float) -> list[Claimed]:
        """Claim up to `room` jobs in the open transaction; jobs not registered here are given back at once."""
        claimed = self._take(room, now)
        # Read after the claim: a pause that was made before these jobs were enqueued is visible here.
        while claimed and self.notice_pauses(self._engine.queues.paused(now)):
            self._engine.jobs.release(self._ledger.owner, claimed)
            claimed = self._take(room, now)
        # Fewer jobs than room may mean that other consumers have locked more than they claimed.
        self.may_have_ready = bool(claimed)
        unknown = [job for job in claimed if not registry.knows(job.name, job.arguments)]
        if not unknown:
            return claimed
        self._engine.jobs.release(self._ledger.owner, unknown)
        for name in {job.name for job in unknown}:
            logger.warning("left to other consumers: no job named %r is registered here", name)
            self._unknown.append(name)
        return [job for job in claimed if job not in unknown]

    def admit(self, claimed: list[Claimed], ended: Collection[UUID] = ()) -> Admitted:
        """Apply limits, rates, unique keys and expiry to jobs that were claimed in the open transaction.

        Args:
            ended: jobs under a limit that stopped running in this transaction; jobs that they kept
                waiting become ready.
        """
        if not ended and not any(job.flags & Flag.NEEDS_ADMISSION for job in claimed):
            return Admitted(claimed)
        began, deadlines = time.monotonic(), self._ledger.deadlines
        admitted = self._engine.admission.admit(claimed, ended, start_margin=deadlines.margin)
        if admitted.start_deadlines:
            deadlines.add(began, admitted.start_deadlines)
        return admitted

    def _take(self, room: int, now: float) -> list[Claimed]:
        return self._queues.take(
            room,
            self._selections(),
            lambda names, limit: self._engine.jobs.claim(
                self._ledger.owner, limit, now, queues=names, exclude_names=self._unknown
            ),
        )

    def _selections(self) -> list[Selection]:
        names = self._engine.queues.with_ready() if self._queues.needs_ready_names else []
        return self._queues.select(names)
