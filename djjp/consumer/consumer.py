"""The turn: one coordinator thread does all the queue's work of a consumer, on one connection.

Each turn is one transaction: it writes the outcomes of the jobs that ended since the last one, runs
the verbs that running jobs asked for, and claims jobs for the free slots and a read-ahead. There is
no timer that batches: while a turn commits, outcomes pile up, and the next turn takes them all.

What holds, whatever breaks:

* An outcome leaves memory only when the transaction that wrote it has committed.
* A claimed job is in `_held` from the commit that claimed it to the commit that settled it, so at
  any moment the consumer knows what it would have to give back.
* Only the coordinator touches the connection. Jobs reach the queue over the desk.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Sequence
from uuid import UUID

from django.db import Error as DatabaseError

from djjp import registry
from djjp.claims import Claimed, Claims, Listener, Outcome, queue
from djjp.consumer.desk import Desk
from djjp.consumer.pools import ThreadPool
from djjp.consumer.readahead import ReadAhead
from djjp.consumer.wakeups import Bell, wait

logger = logging.getLogger("djjp.consumer")

# After a turn that the database refused: seconds until the next, doubled up to the last.
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 5.0
# Seconds after which a consumer looks at the queue though nobody woke it.
_LOOK_EVERY = 1.0


class Consumer:
    """Claims jobs and runs them until it is told to stop.

    Args:
        limit: how many jobs run at the same time.
        queues: names of the queues to serve; None for all.
        drain: stop when no job is left to run.
        max_jobs: stop after this many executions.
        shutdown_timeout: seconds that running jobs get to end once the consumer was told to stop.
    """

    def __init__(
        self,
        limit: int,
        *,
        queues: Sequence[str] | None = None,
        drain: bool = False,
        max_jobs: int | None = None,
        shutdown_timeout: float = 25.0,
    ) -> None:
        self.name = f"{socket.gethostname()[:60]}:{os.getpid()}:{secrets.token_hex(4)}"
        self.executed = 0
        self._claims: Claims
        self._limit = limit
        self._queues = queues
        self._drain = drain
        self._max_jobs = max_jobs
        self._shutdown_timeout = shutdown_timeout

        self._bell = Bell()
        self._desk = Desk(self._bell)
        self._pool = ThreadPool(limit, self._report, self._desk)
        self._read_ahead = ReadAhead()
        self._outcomes: deque[Outcome] = deque()
        self._held: dict[UUID, Claimed] = {}
        self._unknown: list[str] = []

        self._may_have_ready = True  # whether a claim may find something
        self._due: float | None = None  # when the next scheduled job is due, as last read
        self._look_at = 0.0  # when to look though nobody rang
        self._worked_at = time.monotonic()
        self._stops = 0
        self._stop_by = 0.0

    # What other threads call

    def stop(self) -> None:
        """Claim no more and let the running jobs end; a second call gives them back at once.

        Safe to call from a signal handler.
        """
        self._stops += 1
        self._stop_by = 0.0 if self._stops > 1 else time.monotonic() + self._shutdown_timeout
        self._bell.ring()

    def _report(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        self._bell.ring()

    # The coordinator

    def run(self) -> bool:
        """Work until stopped; returns whether each job that was begun ended here."""
        self._claims = queue()
        listener = self._claims.listener()
        pause = _FIRST_PAUSE
        try:
            while True:
                try:
                    self._look(listener)
                    self._turn()
                    if self._over():
                        return not self._held
                    pause = _FIRST_PAUSE
                except DatabaseError as error:
                    logger.warning(
                        "the queue's database refused (%s); again in %.1f s", error, pause
                    )
                    self._recover(pause)
                    pause = min(2 * pause, _LAST_PAUSE)
                else:
                    self._rest(listener)
        finally:
            self._desk.close()
            self._pool.close()
            self._bell.close()

    def _look(self, listener: Listener) -> None:
        """Ask whether somebody wrote to the queue; if so, or if it has been a while, look into it."""
        now = time.monotonic()
        if listener.woken() or now >= self._look_at:
            self._look_at = now + _LOOK_EVERY
            self._due = self._claims.next_due()
            self._may_have_ready = True

    def _turn(self) -> None:
        outcomes = list(self._outcomes)
        now = time.time()
        due = self._due is not None and self._due <= now and not self._stops
        room = self._room(len(outcomes))
        if not outcomes and not self._desk and not due and not self._finds_ready(room):
            return
        claimed: list[Claimed] = []
        accepted: set[UUID] = set()
        with self._claims.turn():
            if outcomes:
                accepted = self._claims.finish(self.name, outcomes)
            self._desk.serve(self._claims)
            if due:
                self._claims.promote(now)
            if room:
                claimed = self._claim(room, now)
        self._settle(outcomes, accepted)
        self._desk.answer()
        self._begin(claimed)
        if due:
            self._due = self._claims.next_due()
        if room:
            # Less than the room may mean that others have locked more than they took.
            self._may_have_ready = bool(claimed)
        self._worked_at = time.monotonic()
        self._forget_statements()

    def _forget_statements(self) -> None:
        """Under DEBUG Django keeps each statement, which a process that lives long cannot afford."""
        connection = self._claims.connection
        if connection.queries_logged and not connection.force_debug_cursor:
            connection.queries_log.clear()

    def _finds_ready(self, room: int) -> bool:
        """Look before a transaction is opened for nothing but a claim."""
        if room and self._may_have_ready:
            self._may_have_ready = self._claims.has_ready(self._queues, self._unknown)
            return self._may_have_ready
        return False

    def _claim(self, room: int, now: float) -> list[Claimed]:
        """Claim up to `room` jobs; what this process does not know goes straight back."""
        claimed = self._claims.claim(
            self.name, room, now, queues=self._queues, without=self._unknown
        )
        unknown = [job for job in claimed if not registry.knows(job.name)]
        if unknown:
            self._claims.release(self.name, unknown)
        return claimed

    def _begin(self, claimed: list[Claimed]) -> None:
        known = [job for job in claimed if registry.knows(job.name)]
        for name in {job.name for job in claimed} - {job.name for job in known}:
            logger.warning("left to other consumers: no job named %r is registered here", name)
            self._unknown.append(name)
        self._held.update((job.id, job) for job in known)
        self._pool.submit(known)

    def _settle(self, outcomes: list[Outcome], accepted: set[UUID]) -> None:
        for outcome in outcomes:
            self._outcomes.popleft()
            self.executed += 1
            job = outcome.claimed
            self._held.pop(job.id, None)
            self._read_ahead.learn(outcome.finished_at - outcome.started_at)
            if job.id not in accepted:
                logger.warning("%s %s is no longer ours; its outcome is dropped", job.name, job.id)
            elif outcome.failure is not None:
                kind, message = outcome.failure.exception_class, outcome.failure.message
                logger.warning("%s %s failed: %s: %s", job.name, job.id, kind, message)

    def _room(self, ended: int = 0) -> int:
        """How many jobs to claim, for the free slots and ahead, once `ended` outcomes are written."""
        if self._stops:
            return 0
        moving = self._limit - self._pool.stuck(self._read_ahead.overdue())
        held = len(self._held) - ended
        room = self._limit + self._read_ahead.jobs(moving) - held
        if self._max_jobs is not None:
            room = min(room, self._max_jobs - self.executed - ended - held)
        return max(0, room)

    # Waiting and ending

    def _rest(self, listener: Listener) -> None:
        """Wait for whatever comes first, unless there is something to do."""
        # Awaited before anything is looked at: whatever comes from here on rings.
        self._bell.awaited = True
        now = time.monotonic()
        hears: Listener | None = None
        # With jobs in line, only until it shows that the slots ahead of them are stuck.
        timeout = self._read_ahead.overdue() if self._pool.waiting() else _LOOK_EVERY
        busy = bool(self._outcomes or self._desk)
        if self._stops:
            timeout = self._stop_by - now
        elif self._room():
            busy = busy or self._may_have_ready
            hears = listener
            if self._due is not None:
                timeout = min(timeout, self._due - time.time())
        if not busy and wait(self._bell, hears, timeout, now - self._worked_at):
            self._look_at = 0.0
        self._bell.awaited = False

    def _over(self) -> bool:
        """Whether to end, after giving back what this consumer will not run."""
        if self._outcomes or self._desk:
            return False
        if self._stops or self._pool.stuck(self._read_ahead.overdue()) == self._limit:
            self._give_back(self._pool.take_back())
        if self._stops:
            if self._held and time.monotonic() >= self._stop_by:
                self._release(list(self._held.values()))
                return True
            return not self._held
        if self._held:
            return False
        done = self._max_jobs is not None and self.executed >= self._max_jobs
        return done or (self._drain and not self._may_have_ready)

    def _give_back(self, jobs: list[Claimed]) -> None:
        """Release jobs that have not started."""
        if jobs:
            self._release(jobs)
            for job in jobs:
                del self._held[job.id]

    def _release(self, jobs: list[Claimed]) -> None:
        with self._claims.turn():
            self._claims.release(self.name, jobs)

    def _recover(self, pause: float) -> None:
        connection = self._claims.connection
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
        self._bell.awaited = True
        wait(self._bell, None, pause, 0.0)
        self._bell.awaited = False
