"""Claiming: how many jobs a consumer claims, from which queues, and when a claim may find any."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from uuid import UUID

from djjp.consumer.batch import Batch
from djjp.consumer.ledger import Ledger
from djjp.consumer.read_ahead import ReadAhead
from djjp.consumer.serving import QueueSelector, Selection
from djjp.engine import Admitted, Claimed, Engine, Key, Outcome, Place
from djjp.jobs import registry
from djjp.models import Flag, State

logger = logging.getLogger("djjp.consumer")

_NEEDS_ADMISSION = Flag.NEEDS_ADMISSION  # to find it in its class takes longer than to test it
#: The number of characters of arguments and inputs in one claim, above which nothing more is claimed ahead.
AHEAD_SIZE = 4 * 1024**2


class Claimer:
    """Claims jobs on behalf of one ledger.

    Args:
        max_jobs: claim no more than this number of executions; None for no such bound.
        on_pause: called when a queue was paused, because claimed jobs of it may not have started.

    Attributes:
        read_ahead: how many jobs to claim beyond the free slots.
        may_have_ready: whether a claim may find a ready job.
        next_due: when the next scheduled job is due, as last read; None where there is none.
        stopped: whether to claim and promote no more.
        quiet: whether to claim no more until further notice, as an operator has requested.
        refused: the jobs that the database lets neither run nor fail.
    """

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        queues: QueueSelector,
        *,
        max_jobs: int | None = None,
        on_pause: Callable[[], None] = lambda: None,
    ) -> None:
        self.read_ahead = ReadAhead()
        self.may_have_ready = True
        self.next_due: float | None = None
        self.stopped = self.quiet = False
        self.refused: set[Key] = set()
        self.max_jobs = max_jobs
        self._engine = engine
        self._ledger = ledger
        self._queues = queues
        self._on_pause = on_pause
        self._may_have_suspects = True
        self._unknown: list[str] = []  # names of jobs that are not registered here
        self._is_heavy = False  # whether the jobs of the last claim have large arguments

    # How many, and when

    def room(self, slots: int, stalled: int, ended: int = 0) -> int:
        """Return the number of jobs to claim, for the free slots and ahead.

        Args:
            slots: the number of jobs that can run at the same time.
            stalled: the number of slots that are not expected to become free soon.
            ended: the number of jobs whose outcomes are about to be written or dropped.
        """
        if self.stopped or self.quiet:
            return 0
        # A job that other consumers have now keeps its slot until it has ended here.
        held = len(self._ledger) + self._ledger.disowned - len(self._ledger.deferred) - ended
        ahead = 0 if self._is_heavy else self.read_ahead.size(slots - stalled)
        room = slots + ahead - held
        if self.max_jobs is not None:
            room = min(room, self.max_jobs - self._ledger.executed - ended - held)
        return max(0, room)

    @property
    def obstacle(self) -> str | None:
        """Return why this consumer claims no jobs, in words; None if it does."""
        if self.stopped or self.is_spent or self.max_jobs == 0:
            return "it is ending"
        return "it is quiet, as requested" if self.quiet else None

    @property
    def is_spent(self) -> bool:
        """Return whether `max_jobs` executions are done."""
        return self.max_jobs is not None and self._ledger.executed >= self.max_jobs

    def is_due(self, now: float) -> bool:
        """Return whether a scheduled job must be promoted."""
        if self.next_due is None or self.next_due > now or self.stopped:
            return False
        if self.refused:  # one of them can be due for ever
            self.next_due = now + 1.0
        return True

    def is_idle(self, now: float) -> bool:
        """Return whether there is nothing to claim or promote, as far as this consumer has read."""
        return not self.may_have_ready and not self.is_due(now)

    def finds_ready(self, room: int) -> bool:
        """Return whether there is a ready job, before a transaction is opened only to claim."""
        if room and self.may_have_ready:
            self.may_have_ready = (
                any(
                    self._engine.jobs.has_ready(names, self._unknown)
                    for _, names in self._selections()
                )
                or self._next_suspect() is not None
            )
            return self.may_have_ready
        return False

    def refresh(self, now: float) -> None:
        """Read what others can change: the next scheduled job, suspects, paused queues. Ready jobs may be new."""
        self.catch_up(now)
        self.may_have_ready = True

    def catch_up(self, now: float) -> None:
        """Read the same after a claim: ready jobs are new only where the claim did not look for them."""
        self.next_due, has_suspects, paused = self._engine.jobs.outlook(now)
        if (has_suspects and not self._may_have_suspects) or self._queues.paused - paused:
            self.may_have_ready = True
        self._may_have_suspects = has_suspects
        self.notice_pauses(paused)

    def expect_rescued(self) -> None:
        """Record that jobs of a dead consumer may be ready now."""
        self.may_have_ready = self._may_have_suspects = True

    def notice_pauses(self, paused: frozenset[str]) -> bool:
        """Claim no more from these queues; return whether one of them was not paused before."""
        new = paused - self._queues.paused
        self._queues.paused = paused
        if new:
            self._on_pause()
        return bool(new)

    def expect_retries(self, retries: Sequence[Outcome]) -> None:
        """Record when failed jobs will run again: at once, or when they are due."""
        for outcome in retries:
            if outcome.state == State.READY:
                self.may_have_ready = True
                self._may_have_suspects |= outcome.claimed.rescues > 0
            elif outcome.run_after is not None:
                self.next_due = min(self.next_due or outcome.run_after, outcome.run_after)

    # The claim

    def claim(
        self,
        room: int,
        now: float,
        *,
        ending: Batch | None = None,
        recheck_pauses: bool = True,
    ) -> list[Claimed]:
        """Claim up to `room` jobs in the open transaction; jobs not registered here are released at once.

        Args:
            ending: what the same transaction settles.
            recheck_pauses: read the paused queues after the claim: a pause that was made before these jobs
                were enqueued is visible then. Needless after a `refresh` if no other process uses the queue.
        """
        if self.refused:
            keys = self.ready_keys(room + len(self.refused), ending)
            return self.claim_keys([key for key in keys if key not in self.refused][:room], now)
        claimed = self._take(room, now, ending)
        while claimed and recheck_pauses and self.notice_pauses(self._engine.queues.paused(now)):
            self._engine.jobs.release(self._ledger.owner, claimed)
            claimed = self._take(room, now, ending)
        return self._runnable(claimed)

    def claim_keys(self, keys: Sequence[Key], now: float) -> list[Claimed]:
        """Claim these jobs in the open transaction, as `claim` does."""
        claimed = self._engine.jobs.claim_keys(self._ledger.owner, keys, now)
        if claimed and self.notice_pauses(self._engine.queues.paused(now)):
            self._engine.jobs.release(self._ledger.owner, claimed)
            return []
        return self._runnable(claimed)

    def ready_keys(self, room: int, ending: Batch | None = None) -> list[Key]:
        """Return the first ready jobs, and before them the next suspect, to be claimed one by one."""
        suspect = self._next_suspect(ending)
        keys = self._queues.take(
            room,
            self._selections(),
            lambda names, limit: self._engine.repair.ready_keys(limit, names, self._unknown),
        )
        first = [] if suspect is None else self._engine.db.keys([suspect.id])
        return [*first, *keys][:room]

    def _runnable(self, claimed: list[Claimed]) -> list[Claimed]:
        # Fewer jobs than room may mean that other consumers have locked more than they claimed.
        self.may_have_ready = bool(claimed)
        names, size = set(), 0
        # Unpacked, which takes half the time of three attributes: each job is claimed here.
        for _, name, arguments, _, _, _, _, _, _, _, given, _, _ in claimed:
            names.add(name)
            size += len(arguments)
            if given is not None:
                size += len(given)
        self._is_heavy = size > AHEAD_SIZE
        if registry.knows(names):
            return claimed
        unknown = [job for job in claimed if not registry.can_run(job.name, job.arguments)]
        if not unknown:
            return claimed
        # A name that the claim had to leave out, and did not, has bytes that are no text.
        if any(job.name in self._unknown or not isinstance(job.name, str) for job in unknown):
            raise TypeError("its name is no text")
        self._engine.jobs.release(self._ledger.owner, unknown)
        for name in {job.name for job in unknown}:
            logger.warning("left to other consumers: no job named %r is registered here", name)
            self._unknown.append(name)
        return [job for job in claimed if job not in unknown]

    def admit(self, claimed: list[Claimed], ended: Collection[UUID] = ()) -> Admitted:
        """Apply limits, rates and expiry to jobs that were claimed in the open transaction.

        Args:
            ended: jobs under a limit that stopped running in this transaction; jobs that they kept
                waiting become ready.
        """
        if not ended and not [job for job in claimed if job.flags & _NEEDS_ADMISSION]:
            return Admitted(claimed)
        began, deadlines = time.monotonic(), self._ledger.deadlines
        margin = deadlines.margin(job for job in claimed if job.flags & Flag.RATE_LIMITED)
        admitted = self._engine.admission.admit(claimed, ended, start_margin=margin)
        if admitted.start_deadlines:
            deadlines.add(began, margin, admitted.jobs, admitted.start_deadlines)
        return admitted

    def _take(self, room: int, now: float, ending: Batch | None) -> list[Claimed]:
        jobs = self._queues.take(
            room,
            self._selections(),
            lambda names, limit: self._engine.jobs.claim(
                self._ledger.owner, limit, now, queues=names, exclude_names=self._unknown
            ),
        )
        if (suspect := self._next_suspect(ending)) is not None:
            self._take_suspect(suspect, jobs, room, now)
        return jobs

    def _next_suspect(self, ending: Batch | None = None) -> Place | None:
        """Return the suspect to claim next; None while this consumer holds one."""
        if not self._may_have_suspects or self._ledger.holds_suspect(ending):
            return None
        ranks = self._queues.ranked(self._engine.queues.with_suspects())
        first = self._engine.suspects.first
        found = (first(names, self._unknown, self.refused) for names in ranks)
        suspect = next((place for place in found if place is not None), None)
        self._may_have_suspects = suspect is not None
        if suspect is not None and any(job.id == suspect.id for job in self._ledger.held()):
            # Others have rescued a job that runs here: the next heartbeat will show it.
            return None
        return suspect

    def _take_suspect(self, suspect: Place, jobs: list[Claimed], room: int, now: float) -> None:
        """Insert a suspect into the jobs that were claimed in the open transaction, in claim order.

        If the jobs fill the room, the last one is released; if all come before the suspect, it waits.
        """
        places = self._engine.suspects.places(jobs) if jobs else {}
        later = [job for job in jobs if self._order(places[job.id]) > self._order(suspect)]
        if len(jobs) == room and not later:
            return
        claimed = self._engine.suspects.claim(self._ledger.owner, suspect.id, now)
        at = jobs.index(later[0]) if later else len(jobs)
        jobs[at:at] = claimed
        if len(jobs) > room:
            last = max(later, key=lambda job: self._order(places[job.id]))
            self._engine.jobs.release(self._ledger.owner, [last])
            jobs.remove(last)

    def _order(self, place: Place) -> tuple[int, int, UUID]:
        return self._queues.rank_number(place.queue), -place.priority, place.id

    def _selections(self) -> list[Selection]:
        names = self._engine.queues.with_ready() if self._queues.needs_ready_names else []
        return self._queues.select(names)
