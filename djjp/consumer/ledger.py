"""The ledger: which jobs a consumer holds, and what it still has to write about them.

What holds, whatever breaks:

* An outcome leaves memory only when the transaction that wrote it has committed.
* A claimed job is in the ledger from the commit that claimed it to the commit that settled it, so at any
  moment the consumer knows which jobs it would have to give back.
* Only the coordinator's thread writes to the database. The threads of jobs add outcomes, progress and jobs
  to give back to the ledger, and the coordinator's next turn writes them.

A claim is identified in this module only: by the id of its job while it is held, and by the `Claimed` tuple
once it was lost to others, since the same job may meanwhile be held anew.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from djjp.consumer.rate_starts import StartDeadlines
from djjp.consumer.start_journal import StartJournal
from djjp.engine import Claimed, Engine, Outcome, Progress
from djjp.models import FINISHED, Flag, State

logger = logging.getLogger("djjp.consumer")


class Batch(NamedTuple):
    """The writes of one turn: a snapshot, because jobs report further outcomes while the turn commits.

    Attributes:
        reported: all outcomes in the order in which they were reported.
        outcomes: those of them that are still this consumer's to write.
        progress: the last progress of each running job that reported any, by its id.
        returns: the jobs to give back.
    """

    reported: list[Outcome]
    outcomes: list[Outcome]
    progress: dict[UUID, Progress]
    returns: list[Claimed]

    def is_empty(self) -> bool:
        """Return whether there is nothing to write."""
        return not (self.reported or self.progress or self.returns)

    def flags(self) -> int:
        """Return the flags of all jobs that ended, together."""
        flags = 0
        for outcome in self.outcomes:
            flags |= outcome.claimed.flags
        return flags

    def ended_under_limit(self) -> list[UUID]:
        """Return the jobs under a limit that no longer run once the batch is written."""
        ended = [o.claimed.id for o in self.outcomes if o.claimed.flags & Flag.LIMITED]
        return ended + [job.id for job in self.returns if job.flags & Flag.LIMITED]


class Ledger:
    """The claims of one consumer, from the commit that made them to the commit that settled them.

    Args:
        owner: the name under which the consumer claims; `disown()` ends with a new one.
        wake: called on any thread when there is something to write.

    Attributes:
        executed: the number of executions whose outcomes are written.
        deadlines: until when the held jobs under a rate must start.
    """

    def __init__(self, engine: Engine, owner: str, wake: Callable[[], None] = lambda: None) -> None:
        self.owner = owner
        self.executed = 0
        self.deadlines = StartDeadlines()
        self._engine = engine
        self._wake = wake
        self._journal = StartJournal(None, owner, 0)
        self._held: dict[UUID, Claimed] = {}
        self._disowned: set[Claimed] = set()  # lost to other consumers while they ran here
        self._outcomes: deque[Outcome] = deque()
        self._progress: dict[UUID, Progress] = {}
        self._returns: deque[Claimed] = deque()

    def __len__(self) -> int:
        """Return the number of jobs that are held."""
        return len(self._held)

    # The threads of jobs

    def may_start(self, job: Claimed) -> bool:
        """Record the start in the journal and return whether the job may start. Called on the job's thread."""
        if job.flags & Flag.RATE_LIMITED and self.deadlines.missed(job):
            # Its counted start would expire too early: the job is given back and counted anew.
            self._returns.append(job)
            self._wake()
            return False
        return self._journal.record(job)

    def report(self, outcome: Outcome) -> None:
        """Take the outcome of a job for the next turn to write."""
        self._outcomes.append(outcome)
        self._wake()

    def report_progress(self, progress: Progress) -> None:
        """Take the progress of a running job. It wakes nobody: it is written with the next turn."""
        self._progress[progress.claimed.id] = progress

    # The coordinator: what a turn writes

    @property
    def has_writes(self) -> bool:
        """Return whether outcomes or jobs to give back are waiting to be written."""
        return bool(self._outcomes or self._returns)

    def batch(self) -> Batch:
        """Return everything that is waiting to be written."""
        reported, disowned = list(self._outcomes), self._disowned
        outcomes = [o for o in reported if o.claimed not in disowned] if disowned else reported
        return Batch(reported, outcomes, dict(self._progress), list(self._returns))

    def write_outcomes(self, batch: Batch) -> set[UUID]:
        """Write progress and outcomes in the open transaction.

        Returns:
            The jobs whose outcomes were accepted: those that the queue still has as this consumer's.
        """
        if batch.progress:
            self._engine.jobs.record_progress(self.owner, list(batch.progress.values()))
        return self._engine.jobs.finish(self.owner, batch.outcomes) if batch.outcomes else set()

    def write_returns(self, batch: Batch) -> None:
        """Give back, in the open transaction, the jobs that will not run here."""
        if batch.returns:
            self._engine.jobs.release(self.owner, batch.returns)
            if unused := self.deadlines.unused(batch.returns):
                self._engine.rates.forget_starts(unused)

    def settle(self, batch: Batch, accepted: set[UUID]) -> list[Outcome]:
        """Forget what was written, now that its transaction has committed.

        Returns:
            The outcomes of jobs that will run again.
        """
        self._forget_progress(batch.progress)
        jobs = [outcome.claimed for outcome in batch.reported]
        retries = self._settle_outcomes(batch.reported, accepted)
        self._journal.forget(jobs)
        self.deadlines.forget(jobs)
        for job in batch.returns:
            self._returns.popleft()
            self._held.pop(job.id, None)
            self._disowned.discard(job)
        if batch.returns:
            self._journal.forget(batch.returns)
            self.deadlines.forget(batch.returns)
        return retries

    def _settle_outcomes(self, reported: list[Outcome], accepted: set[UUID]) -> list[Outcome]:
        self.executed += len(reported)
        retries = []
        some_refused = len(accepted) < len(reported)
        for outcome in reported:
            self._outcomes.popleft()
            job = outcome.claimed
            if self._disowned and job in self._disowned:
                self._disowned.discard(job)
            else:
                del self._held[job.id]
            if some_refused and job.id not in accepted:
                logger.warning("%s %s is no longer ours; its outcome is dropped", job.name, job.id)
            elif outcome.state != State.SUCCEEDED:
                _log_failure(outcome)
                if outcome.state not in FINISHED:
                    retries.append(outcome)
        return retries

    def _forget_progress(self, written: dict[UUID, Progress]) -> None:
        for id, progress in written.items():
            if self._progress.get(id) is progress:
                del self._progress[id]

    # The coordinator: which jobs are held

    def hold(self, jobs: Collection[Claimed]) -> None:
        """Record jobs that were just claimed, now that their claim has committed."""
        self._held.update([(job.id, job) for job in jobs])
        self._journal.reserve(jobs)

    def held(self, ids: Iterable[UUID] | None = None) -> list[Claimed]:
        """Return the jobs that are held, or those of them that have these ids."""
        if ids is None:
            return list(self._held.values())
        return [self._held[id] for id in ids if id in self._held]

    def give_back(self, jobs: Iterable[Claimed]) -> None:
        """Have the next turn give back jobs that have not started and will not start here."""
        self._returns.extend(jobs)

    def release(self, jobs: Collection[Claimed]) -> None:
        """Give jobs back at once, in a transaction of its own. They stay in the ledger."""
        with self._engine.db.transaction():
            accepted = self._engine.jobs.release(self.owner, jobs)
            limited = [job.id for job in jobs if job.flags & Flag.LIMITED and job.id in accepted]
            if limited:
                self._engine.limits.unblock(limited)

    def reconcile(self) -> None:
        """Give back the jobs that the queue has as this consumer's and that the ledger does not hold.

        After an outage nobody knows whether the last commit took place. A job that is held and that the
        queue does not have as this consumer's needs no care: the fence refuses its outcome.
        """
        running = self._engine.consumers.running_jobs(self.owner)
        unknown = [
            Claimed(id, "", "", attempt, 0, Flag.HAS_DEPENDENTS)  # it may have some
            for id, attempt in running.items()
            if id not in self._held
        ]
        if unknown:
            self.release(unknown)

    def disown(self, waiting: Collection[Claimed], name: str) -> None:
        """Let go of all jobs, which other consumers have rescued, and go on under a new name.

        Args:
            waiting: those of them that had not started. They are released once more, because a turn that
                was frozen before its commit comes after the rescue and may have claimed under the old name.
        """
        self._disowned.update(set(self._held.values()).difference(waiting))
        self._held.clear()
        if waiting:
            self.release(waiting)
        self._engine.consumers.release_lock(self.owner)
        self._journal.close()
        self.owner = name

    # The journal

    def open_journal(self, folder: Path | None, jobs: int) -> None:
        """Begin a journal under the present name, for a number of jobs held at a time."""
        self._journal = StartJournal(folder, self.owner, jobs)

    @property
    def is_suspected(self) -> bool:
        """Return whether another consumer suspects that this one is dead."""
        return self._journal.is_suspected()

    def clear_suspicion(self) -> None:
        """Let jobs start again: this consumer has shown that it lives and that its jobs are its own."""
        self._journal.clear_suspicion()

    def close(self) -> None:
        """Remove the journal; no further job starts."""
        self._journal.close()


def _log_failure(outcome: Outcome) -> None:
    """Log why a job failed, whether or not it will run again."""
    job, failure = outcome.claimed, outcome.failure
    if failure is not None:
        logger.warning(
            "%s %s failed%s: %s: %s",
            job.name,
            job.id,
            "" if outcome.state in FINISHED else " and will run again",
            failure.exception_class,
            failure.message,
        )
