"""The ledger: the jobs that a consumer holds, and everything that it must still write about them.

Three invariants hold, whatever fails:

* An outcome leaves memory only when the transaction that wrote it has committed.
* A claimed job is in the ledger from the commit that claimed it to the commit that wrote its outcome or
  released it, so at any time the ledger has all the jobs that the consumer must release if it ends.
* Only the coordinator's thread writes to the database. The threads of jobs add outcomes, progress and jobs
  to release to the ledger, and the coordinator's next turn writes them.

A job can be held twice: its last execution still runs here, and it was released or retried and claimed anew. So
a claim is identified by its `Claimed` object here, and by `Claimed.key` in the database, never by the job's id.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from djjp import logs
from djjp.consumer.batch import Batch, bounded
from djjp.consumer.deferred import Deferred, Write
from djjp.consumer.job_log import log_dropped
from djjp.consumer.rate_starts import StartDeadlines
from djjp.consumer.start_journal import StartJournal
from djjp.engine import Claimed, ClaimKey, Engine, Outcome, Progress
from djjp.models import FINISHED, Flag

logger = logging.getLogger("djjp.consumer")

# To find it in its class takes longer than to test it, which each job does.
_RATE_LIMITED = Flag.RATE_LIMITED


class Ledger:
    """The claims of one consumer, from the commit that made each to the commit that wrote its end or its release.

    Args:
        owner: the name under which the consumer claims; `disown()` ends with a new one.
        wake: called on any thread when there is something to write.

    Attributes:
        executed: the number of executions whose outcomes are written.
        deadlines: until when the held jobs under a rate must start.
        deferred: the writes for which other transactions have locked the rows; their jobs need no slot.
    """

    def __init__(self, engine: Engine, owner: str, wake: Callable[[], None] = lambda: None) -> None:
        self.owner = owner
        self.executed = 0
        self.deadlines = StartDeadlines()
        self.deferred = Deferred(engine)
        self._engine = engine
        self._wake = wake
        self._journal = StartJournal(None, owner, 0)
        # By the identity of the `Claimed` tuple, as in the journal.
        self._held: dict[int, Claimed] = {}
        self._disowned: dict[int, Claimed] = {}  # lost to other consumers while they ran here
        self._outcomes: list[Outcome] = []
        self._progress: dict[int, Progress] = {}
        self._releases: deque[Claimed] = deque()
        self._set_aside: set[ClaimKey] = set()

    def __len__(self) -> int:
        """Return the number of jobs that are held."""
        return len(self._held)

    @property
    def disowned(self) -> int:
        """Return the number of jobs that run here although other consumers have rescued them."""
        return len(self._disowned)

    # The threads of jobs

    def may_start(self, job: Claimed) -> bool:
        """Record the start in the journal and return whether the job may start. Called on the job's thread."""
        if job.flags & _RATE_LIMITED and self.deadlines.missed(job):
            return False  # its counted start would expire too early
        return self._journal.record(job)

    def put_off(self, job: Claimed) -> None:
        """Have the next turn release a job that `may_start` has refused, now that nothing of it runs here.

        The queue refuses that for a job that other consumers have rescued, which is then forgotten here.
        """
        self._releases.append(job)
        self._wake()

    def report(self, outcome: Outcome) -> None:
        """Take the outcome of a job for the next turn to write."""
        self._outcomes.append(outcome)
        self._wake()

    def report_progress(self, progress: Progress) -> None:
        """Take the progress of a running job, if it is still held. It wakes no turn: the next one writes it."""
        if id(progress.claimed) in self._held:
            self._progress[id(progress.claimed)] = progress

    # The coordinator: the writes of a turn

    @property
    def has_writes(self) -> bool:
        """Return whether outcomes or jobs to release are waiting to be written."""
        return bool(self._outcomes or self._releases or self.deferred.is_due)

    def batch(self) -> Batch:
        """Return everything that is waiting to be written, up to a bound on its size."""
        for write in self.deferred.take_due():
            if isinstance(write, Outcome):
                self._outcomes.append(write)
            else:
                self._releases.append(write)
        reported = bounded(list(self._outcomes))
        outcomes = reported
        if self._disowned:
            outcomes = [outcome for outcome in reported if id(outcome.claimed) in self._held]
        return Batch(reported, outcomes, list(self._progress.values()), list(self._releases))

    def write_outcomes(self, batch: Batch) -> set[ClaimKey]:
        """Write progress and outcomes in the open transaction.

        Returns:
            The claims whose outcomes were refused: the queue no longer has them as this consumer's.
        """
        if batch.progress:
            self._engine.jobs.record_progress(self.owner, batch.progress)
        return self._engine.jobs.finish(self.owner, batch.outcomes) if batch.outcomes else set()

    def write_releases(self, batch: Batch) -> None:
        """Release, in the open transaction, the jobs that will not run here."""
        if batch.releases:
            self._engine.jobs.release(self.owner, batch.releases)
            if unused := self.deadlines.unused(batch.releases):
                self._engine.rates.forget_starts(unused)

    def forget_written(self, batch: Batch, refused: set[ClaimKey]) -> list[Outcome]:
        """Forget what was written, now that its transaction has committed.

        Returns:
            The outcomes of jobs that will run again.
        """
        self.forget_progress(batch.progress)
        if batch.locked:
            self._defer_locked(batch)
        jobs, retries = self._forget_outcomes(batch, refused)
        self.executed += len(jobs)
        self._forget(jobs)
        for job in batch.releases:
            self._releases.popleft()
            self._held.pop(id(job), None)
            self._disowned.pop(id(job), None)
        if batch.releases:
            self._forget(batch.releases)
        return retries

    def _forget(self, jobs: Collection[Claimed]) -> None:
        self._journal.forget(jobs)
        self.deadlines.forget(jobs)
        self.deferred.forget(jobs)

    def _forget_outcomes(
        self, batch: Batch, refused: set[ClaimKey]
    ) -> tuple[list[Claimed], list[Outcome]]:
        """Return the jobs whose outcomes were written, and the outcomes of those that will run again."""
        del self._outcomes[: len(batch.reported)]
        held, locked = self._held, batch.locked
        jobs, retries, dropped = [], [], []
        for outcome in batch.reported:
            job, state, _, _, _, _, _, _ = outcome
            if locked and id(job) in locked:
                continue
            jobs.append(job)
            if held.pop(id(job), None) is None or (refused and job.key in refused):
                self._disowned.pop(id(job), None)
                dropped.append(job)
            elif state not in FINISHED:
                retries.append(outcome)
        log_dropped(dropped)
        return jobs, retries

    def _defer_locked(self, batch: Batch) -> None:
        """Have the locked rows of a batch written later."""
        for outcome in batch.reported:
            if id(outcome.claimed) in batch.locked:
                self.deferred.add(outcome)
        for job in [job for job in self._releases if id(job) in batch.locked]:
            self._releases.remove(job)
            self.deferred.add(job)

    def part(self, outcomes: Sequence[Outcome]) -> Batch:
        """Return a batch of the first of the outcomes that wait."""
        return Batch(outcomes, [each for each in outcomes if id(each.claimed) in self._held])

    def defer(self, write: Write) -> None:
        """Have the first outcome, or job to release, written later: another transaction is in its way."""
        self._pop(write)
        self.deferred.add(write)

    def _pop(self, write: Write) -> Claimed:
        if isinstance(write, Outcome):
            del self._outcomes[0]
            return write.claimed
        self._releases.popleft()
        return write

    def set_aside(self, write: Write, error: BaseException) -> None:
        """Give up the first outcome, or job to release: the database refuses it, even with the reason."""
        job = self._pop(write)
        self.executed += isinstance(write, Outcome)
        self._held.pop(id(job), None)
        self.deferred.forget([job])
        self._set_aside.add(job.key)
        logger.error(
            "the outcome of %s %s cannot be written (%s); it counts as running until this consumer ends",
            job.name,
            job.id,
            " ".join(str(error).split())[:1000],
            extra=logs.of_job(job),
        )

    def forget_progress(self, written: Iterable[Progress]) -> None:
        """Forget reports of progress, unless newer ones have replaced them."""
        for progress in written:
            if self._progress.get(id(progress.claimed)) is progress:
                del self._progress[id(progress.claimed)]

    # The coordinator: which jobs are held

    def hold(self, jobs: Collection[Claimed]) -> None:
        """Record jobs that were just claimed, now that their claim has committed."""
        self._held.update(zip(map(id, jobs), jobs, strict=True))
        self._journal.reserve(jobs)

    def held(self, claims: Iterable[ClaimKey] | None = None) -> list[Claimed]:
        """Return the jobs that are held, or those of them that are held by these claims."""
        if claims is None:
            return list(self._held.values())
        wanted = set(claims)
        return [job for job in self._held.values() if job.key in wanted] if wanted else []

    def holds_suspect(self, ending: Batch | None) -> bool:
        """Return whether a suspect (see `djjp.engine.suspects`) is held, apart from jobs that a batch settles."""
        if self._disowned:  # they may still run here, and others have rescued them
            return True
        suspects = {key for key, job in self._held.items() if job.rescues}
        return bool(suspects.difference(ending.settled() if suspects and ending else ()))

    def release_in_turn(self, jobs: Iterable[Claimed]) -> None:
        """Have the next turn release jobs that have not started and will not start here."""
        self._releases.extend(jobs)

    def release_now(self, jobs: Collection[Claimed]) -> None:
        """Release jobs at once, in a transaction of its own. They stay in the ledger."""
        with self._engine.db.transaction():
            jobs = self.deferred.unlocked(jobs)
            refused = self._engine.jobs.release(self.owner, jobs)
            ended = [job for job in jobs if job.key not in refused]
            if limited := [job.id for job in ended if job.flags & Flag.LIMITED]:
                self._engine.limits.unblock(limited)

    def reconcile(self) -> None:
        """Give back the claims that the queue has as this consumer's and that the ledger does not hold.

        After an outage it is unknown whether the last commit took place. It may have claimed a job anew whose last
        outcome it wrote, and which the ledger still holds by the claim before. A claim that is held here although
        the queue does not have it as this consumer's needs no care: the fence refuses its outcome.
        """
        running = self._engine.consumers.running_jobs(self.owner)
        known = self._set_aside | {job.key for job in self._held.values()} if running else set()
        unknown = [
            # It may have dependents, and may keep others waiting under a limit.
            Claimed(id, "", "", attempt, 0, Flag.HAS_DEPENDENTS | Flag.LIMITED, claim)
            for (id, claim), attempt in running.items()
            if (id, claim) not in known
        ]
        if unknown:
            self.release_now(unknown)

    def disown(self, waiting: Collection[Claimed], name: str) -> None:
        """Give up all jobs, which other consumers have rescued, and continue under a new name.

        Args:
            waiting: those of them that had not started. They are released once more, because a turn that
                was frozen before its commit comes after the rescue and may have claimed under the old name.
        """
        never_started = set(map(id, waiting))
        self._disowned |= {k: job for k, job in self._held.items() if k not in never_started}
        self._held.clear()
        self._progress.clear()
        if waiting:
            self.release_now(waiting)
        self._engine.consumers.release_lock(self.owner)
        self._journal.close()
        self.owner = name

    # The journal

    def open_journal(self, folder: Path | None, jobs: int) -> None:
        """Start a journal under the present name, for a number of jobs held at a time."""
        self._journal = StartJournal(folder, self.owner, jobs)

    def renew_journal(self, folder: Path | None) -> bool:
        """Make the journal anew if its file was removed; return whether it was, which sets its flag."""
        return self._journal.renew(folder)

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
