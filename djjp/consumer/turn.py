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
import time
from collections import deque
from uuid import UUID

from djjp.consumer.call_queue import CallQueue
from djjp.consumer.liveness import new_name
from djjp.consumer.pool import Pool
from djjp.consumer.pool.coroutines import AsyncPool
from djjp.consumer.pool.threads import ThreadPool
from djjp.consumer.rate_starts import Starts
from djjp.consumer.read_ahead import ReadAhead
from djjp.consumer.serving import Served, Serving
from djjp.consumer.start_journal import Begun
from djjp.consumer.wakeup import Wakeup
from djjp.engine import Admitted, Claimed, Engine, Outcome, Progress
from djjp.jobs import registry
from djjp.models import FINISHED, Flag, State

logger = logging.getLogger("djjp.consumer")


class Turns:
    """What a consumer holds, and the turns in which that changes; when to take one is the consumer's to say."""

    def __init__(
        self,
        limit: int,
        serving: Serving,
        max_jobs: int | None,
        *,
        concurrency: str,
    ) -> None:
        self.name = new_name()
        self.executed = 0
        self._engine: Engine
        self._begun: Begun
        self._limit = limit
        self._serving = serving
        self._max_jobs = max_jobs
        self._concurrency = concurrency

        self._wakeup = Wakeup()
        self._call_queue = CallQueue(self._wakeup)
        self._pool: Pool = (AsyncPool if concurrency == "asyncio" else ThreadPool)(
            limit,
            on_outcome=self._report,
            on_progress=self._note_progress,
            call_queue=self._call_queue,
            consumer=self.name,
        )
        self._read_ahead = ReadAhead()
        self._outcomes: deque[Outcome] = deque()
        self._progress: dict[UUID, Progress] = {}
        self._held: dict[UUID, Claimed] = {}
        self._taken: set[Claimed] = set()  # what others have taken over while it ran here
        self._unknown: list[str] = []
        self._starts = Starts()
        self._late: deque[Claimed] = deque()  # those that the next turn gives back

        self._may_have_ready = True  # whether a claim may find something
        self._due: float | None = None  # when the next scheduled job is due, as last read
        self._worked_at = time.monotonic()
        self._stops = 0

    def _report(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        self._wakeup.set()

    def _note_progress(self, progress: Progress) -> None:
        self._progress[progress.claimed.id] = progress

    def _turn(self) -> None:
        reported = list(self._outcomes)
        outcomes = (
            [o for o in reported if o.claimed not in self._taken] if self._taken else reported
        )
        now = time.time()
        due = self._due is not None and self._due <= now and not self._stops
        room = self._room(len(outcomes))
        progress, late = dict(self._progress), list(self._late)
        idle = not (reported or progress or late or self._call_queue or due)
        if idle and not self._finds_ready(room):
            return
        engine = self._engine
        with engine.db.transaction():
            if progress:
                engine.jobs.record_progress(self.name, list(progress.values()))
            accepted = engine.jobs.finish(self.name, outcomes) if outcomes else set()
            self._call_queue.execute(engine)
            if due:
                engine.jobs.promote(now)
            if late:
                engine.jobs.release(self.name, late)
                if unused := self._starts.unused(late):
                    engine.rates.forget_starts(unused)
            screened = self._screened(self._claim(room, now) if room else [], outcomes, late)
        self._forget_progress(progress)
        self._settle(reported, accepted)
        self._drop_late(late)
        self._call_queue.resolve()
        self._begin(screened.jobs)
        freed = any(outcome.claimed.flags & Flag.HAS_DEPENDENTS for outcome in outcomes)
        delayed = any(outcome.claimed.flags & Flag.DELAYS_CHILD for outcome in outcomes)
        if due or delayed or screened.throttled:
            self._due = engine.jobs.next_due()
        if (freed and not room) or late or screened.unblocked:
            self._may_have_ready = True
        self._worked_at = time.monotonic()
        self._forget_statements()

    def _forget_progress(self, written: dict[UUID, Progress]) -> None:
        for id, told in written.items():
            if self._progress.get(id) is told:
                del self._progress[id]

    def _forget_statements(self) -> None:
        """Under DEBUG Django keeps each statement, which a process that lives long cannot afford."""
        connection = self._engine.db.connection
        if connection.queries_logged and not connection.force_debug_cursor:
            connection.queries_log.clear()

    def _finds_ready(self, room: int) -> bool:
        """Look before a transaction is opened for nothing but a claim."""
        if room and self._may_have_ready:
            self._may_have_ready = any(
                self._engine.jobs.has_ready(queues, self._unknown) for _, queues in self._served()
            )
            return self._may_have_ready
        return False

    def _served(self) -> list[Served]:
        """The queues to look into."""
        looks = self._serving.looks_for_names
        return self._serving.served(self._engine.queues.with_ready() if looks else [])

    def _claim(self, room: int, now: float) -> list[Claimed]:
        """Claim up to `room` jobs; what this process does not know goes straight back."""
        claimed = self._take(room, now)
        # Looked at behind the claim: who paused a queue before these jobs were enqueued is seen here.
        while claimed and self._pauses(self._engine.queues.paused(now)):
            self._engine.jobs.release(self.name, claimed)
            claimed = self._take(room, now)
        # Less than the room may mean that others have locked more than they took.
        self._may_have_ready = bool(claimed)
        unknown = [job for job in claimed if not registry.knows(job.name, job.arguments)]
        if not unknown:
            return claimed
        self._engine.jobs.release(self.name, unknown)
        for name in {job.name for job in unknown}:
            logger.warning("left to other consumers: no job named %r is registered here", name)
            self._unknown.append(name)
        return [job for job in claimed if job not in unknown]

    def _take(self, room: int, now: float) -> list[Claimed]:
        return self._serving.take(
            room,
            self._served(),
            lambda queues, limit: self._engine.jobs.claim(
                self.name, limit, now, queues=queues, exclude_names=self._unknown
            ),
        )

    def _pauses(self, paused: frozenset[str]) -> bool:
        """Serve these queues no more; whether there are new ones among them."""
        new = paused - self._serving.paused
        self._serving.paused = paused
        if new:
            # Some of what waits in line may be of a queue that is paused now.
            self._late.extend(self._pool.drain_queue())
        return bool(new)

    def _screened(
        self, claimed: list[Claimed], outcomes: list[Outcome], given_back: list[Claimed]
    ) -> Admitted:
        """Keep those of the claimed jobs that may run now, and let in whom the others kept waiting."""
        ended = [o.claimed.id for o in outcomes if o.claimed.flags & Flag.LIMITED]
        ended += [job.id for job in given_back if job.flags & Flag.LIMITED]
        if not ended and not any(job.flags & Flag.NEEDS_ADMISSION for job in claimed):
            return Admitted(claimed)
        began = time.monotonic()
        screened = self._engine.admission.admit(claimed, ended, start_margin=self._starts.slack)
        if screened.start_deadlines:
            self._starts.expect(began, screened.start_deadlines)
        return screened

    def _begin(self, claimed: list[Claimed]) -> None:
        if claimed:
            self._held.update([(job.id, job) for job in claimed])
            self._begun.expect(claimed)
            self._pool.submit(claimed)

    def _may_begin(self, job: Claimed) -> bool:
        """Whether a job may begin now, noted where its consumer's death would ask for it; on its thread."""
        if job.flags & Flag.RATE_LIMITED and self._starts.too_late(job):
            # It would count for too short: it is counted anew.
            self._late.append(job)
            self._wakeup.set()
            return False
        return self._begun.mark(job)

    def _drop_late(self, late: list[Claimed]) -> None:
        for job in late:
            self._late.popleft()
            self._dropped(job)

    def _dropped(self, job: Claimed) -> None:
        """Forget a job that was given back."""
        self._held.pop(job.id, None)
        self._taken.discard(job)
        self._starts.forget([job])
        self._begun.forget([job])

    def _settle(self, reported: list[Outcome], accepted: set[UUID]) -> None:
        """Let go of what has ended, now that it is written."""
        jobs = [outcome.claimed for outcome in reported]
        self.executed += len(jobs)
        self._read_ahead.learn(outcome.finished_at - outcome.started_at for outcome in reported)
        self._pool.forget(jobs)
        some_refused = len(accepted) < len(jobs)
        for outcome in reported:
            self._outcomes.popleft()
            job = outcome.claimed
            if self._taken and job in self._taken:
                self._taken.discard(job)
            else:
                del self._held[job.id]
            if some_refused and job.id not in accepted:
                logger.warning("%s %s is no longer ours; its outcome is dropped", job.name, job.id)
            elif outcome.state != State.SUCCEEDED:
                self._ended_otherwise(outcome)
        self._begun.forget(jobs)
        self._starts.forget(jobs)

    def _ended_otherwise(self, outcome: Outcome) -> None:
        if outcome.state not in FINISHED:
            self._comes_again(outcome)
        if outcome.failure is not None:
            job, failure = outcome.claimed, outcome.failure
            logger.warning(
                "%s %s failed: %s: %s", job.name, job.id, failure.exception_class, failure.message
            )

    def _comes_again(self, outcome: Outcome) -> None:
        """A job that has failed will run again: now, or when it is due."""
        if outcome.state == State.READY:
            self._may_have_ready = True
        elif outcome.run_after is not None:
            self._due = min(self._due or outcome.run_after, outcome.run_after)

    def _room(self, ended: int = 0) -> int:
        """How many jobs to claim, for the free slots and ahead, once `ended` outcomes are written."""
        if self._stops:
            return 0
        moving = self._limit - self._pool.stalled(self._read_ahead.overdue())
        held = len(self._held) - ended
        room = self._limit + self._read_ahead.jobs(moving) - held
        if self._max_jobs is not None:
            room = min(room, self._max_jobs - self.executed - ended - held)
        return max(0, room)

    def _release(self, jobs: list[Claimed]) -> None:
        with self._engine.db.transaction():
            accepted = self._engine.jobs.release(self.name, jobs)
            limited = [job.id for job in jobs if job.flags & Flag.LIMITED and job.id in accepted]
            if limited:
                self._engine.limits.unblock(limited)
