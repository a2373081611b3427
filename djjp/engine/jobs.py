"""Jobs, the hot path: enqueue, claim, finish, release, promote.

`tests/engine` states what each verb promises, on both databases.

**The fence.** What a consumer reports of a job is written only while the row says that it runs by this
consumer's claim. A late report changes nothing, and the caller gets the claims that were refused. `finish`,
`release` and `record_progress` are fenced; `djjp.engine.database.Fence` is the guard of the first two. Rescue has
a check of its own: see `djjp.engine.rescue`.

Times are seconds since the epoch (`time.time()`) throughout the engine, so that no time zone enters a statement.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from djjp.durations import to_datetime
from djjp.engine.database import Database
from djjp.engine.payloads import Payloads
from djjp.engine.pipelines import Pipelines
from djjp.engine.queues import PAUSED_NAMES
from djjp.engine.records import (
    AS_ASKED,
    NO_HOLDERS,
    PLAIN_ENDS,
    Claimed,
    ClaimKey,
    Failure,
    FencedUpdate,
    KeyHolders,
    NewJob,
    NewPipeline,
    Outcome,
    Progress,
    update_for,
)
from djjp.engine.rows import SUSPECT, TABLE, Key
from djjp.engine.tags import Tags
from djjp.engine.totals import Totals
from djjp.engine.unique_keys import UniqueKeys
from djjp.models import FINISHED, Attempt, Flag, Job, State

#: The number of due jobs that become ready at once: a consumer promotes the others in its next turns.
PROMOTED_AT_ONCE = 2000

_ALL_SUCCEEDED = {State.SUCCEEDED}
_SEEN_AT_THE_END = Flag.HAS_DEPENDENTS | Flag.TAGGED

_NEXT_DUE = f"SELECT {{next_due}} FROM {TABLE} WHERE state = 'scheduled'"
# One statement, because each consumer asks at each poll, and a busy one before it claims.
_OUTLOOK = f"""SELECT ({_NEXT_DUE}), EXISTS (SELECT 1 FROM {TABLE} WHERE {SUSPECT}), paused.name
FROM (SELECT 1) AS outlook LEFT JOIN ({PAUSED_NAMES}) AS paused ON true"""


class Outlook(NamedTuple):
    """The due time of the next scheduled job, whether there are suspects, and the queues that are paused."""

    next_due: float | None
    has_suspects: bool
    paused: frozenset[str]


class Jobs:
    """Enqueue jobs, and run them through a consumer's turn."""

    def __init__(
        self,
        db: Database,
        pipelines: Pipelines,
        unique_keys: UniqueKeys,
        tags: Tags,
        totals: Totals,
    ) -> None:
        self._db = db
        self._totals = totals
        self._pipelines = pipelines
        self._tags = tags
        self._payloads = Payloads(db)
        self._unique_keys = unique_keys

    # Enqueue

    def enqueue(self, job: NewJob) -> KeyHolders:
        """Write one job, in a transaction of its own unless one is open; return the holder of its unique key."""
        if job.flags & Flag.CONSTRAINED:
            return self._unique_keys.insert_constrained([job])
        self._db.inserts.plain(job)
        return NO_HOLDERS

    def enqueue_many(self, jobs: Sequence[NewJob]) -> KeyHolders:
        """Write many jobs, all or none, except those whose unique key is held; return the holders."""
        if any(job.flags & Flag.CONSTRAINED for job in jobs):
            return self._unique_keys.insert_constrained(jobs)
        self._db.inserts.many(jobs)
        return NO_HOLDERS

    def relay(self, jobs: Sequence[NewJob | NewPipeline], check_fresh: Callable[[], None]) -> None:
        """Write jobs and pipelines that were read in an outbox, all or none, except those relayed before.

        Args:
            check_fresh: raises when what was read is too old to be written. It is called once no other relay
                of these jobs can intervene: see `djjp.outbox.relay`.
        """
        with self._db.transaction():
            # In one order, so that two relays do not wait for each other.
            new = self._db.inserts.receipts(sorted(job.id for job in jobs), time.time())
            check_fresh()
            for unit in jobs:
                if isinstance(unit, NewPipeline) and unit.id in new:
                    self._pipelines.enqueue(unit)
            arrived = [job for job in jobs if isinstance(job, NewJob) and job.id in new]
            if arrived:
                self.enqueue_late(arrived)
            units = [unit for unit in jobs if unit.id in new]
            steps = [s for u in units for s in (u.jobs if isinstance(u, NewPipeline) else [u])]
            if cancelled := [job.id for job in steps if job.state == State.CANCELLED]:
                self._end_cancelled(cancelled)

    def enqueue_late(self, jobs: Sequence[NewJob]) -> None:
        """Write jobs whose handles exist already; cancel those whose unique key is held, with a reason.

        Of a stand-in no handle exists: if its key is held, it is dropped.
        """
        stand_ins = {job.id for job in jobs if job.flags & Flag.STAND_IN}
        if stand_ins:
            jobs = [job._replace(flags=job.flags & ~Flag.STAND_IN) for job in jobs]
        held = self.enqueue(jobs[0]) if len(jobs) == 1 else self.enqueue_many(jobs)
        for job in jobs:
            if job.id in held and job.id not in stand_ins:
                with self._db.transaction():
                    self._db.inserts.whole([job._replace(state=State.CANCELLED)])
                    self._end_cancelled([job.id], f"job {held[job.id].id} has its unique key")

    def _end_cancelled(self, ids: Iterable[UUID], reason: str = "cancelled on request") -> None:
        """Record the end of jobs that entered the queue as cancelled."""
        self._totals.end(
            State.CANCELLED,
            "finished_at = %s, reason = %s",
            "state = 'cancelled' AND finished_at IS NULL",
            [self._db.to_param(time.time()), reason],
            self._db.keys(ids),
        )

    # The consumer's turn

    def claim(
        self,
        consumer: str,
        limit: int,
        now: float,
        *,
        queues: Sequence[str] | None = None,
        exclude_names: Sequence[str] = (),
    ) -> list[Claimed]:
        """Take up to `limit` ready jobs: higher priority first, then first in, first out.

        Suspects are not among them: see `djjp.engine.suspects`.
        Like `finish`, it belongs inside `Database.transaction()`. Each database has its own claim strategy.

        Args:
            consumer: the name of the consumer that takes them.
            queues: the queues to take from; None for all.
            exclude_names: names of jobs to skip, because this consumer's code does not define them.
        """
        jobs = self._db.claim_strategy.claim(consumer, limit, now, queues, exclude_names)
        return self._loaded(consumer, jobs, now)

    def claim_keys(self, consumer: str, keys: Sequence[Key], now: float) -> list[Claimed]:
        """Take those of these jobs that are ready: see `Repair.ready_keys`."""
        return self._loaded(consumer, self._db.claim_strategy.claim_keys(consumer, keys, now), now)

    def _loaded(self, consumer: str, jobs: list[Claimed], now: float) -> list[Claimed]:
        """Return the claimed jobs that can run, with all that they need; release or fail the others."""
        jobs, left, failed = self._payloads.load(jobs)
        if left:
            self.release(consumer, left)
        if failed:
            outcomes = [Outcome(job, State.FAILED, now, now, failure=why) for job, why in failed]
            self.finish(consumer, outcomes)
        return jobs

    def finish(self, consumer: str, outcomes: Sequence[Outcome]) -> set[ClaimKey]:
        """Write the outcomes of attempts, as one batch; return the claims that the fence refused.

        A failed attempt is kept as an `Attempt` row.
        """
        states, flags = set(), 0
        # Unpacked, which takes half the time of two attributes: each job ends here.
        for claimed, state, _, _, _, _, _, _ in outcomes:
            states.add(state)
            flags |= claimed.flags
        entry = self._totals.entry_of(outcomes, states)
        if states <= PLAIN_ENDS:
            fenced = self._db.fence.write_ends(consumer, outcomes, entry)
        else:
            updates = [update_for(consumer, outcome) for outcome in outcomes]
            fenced = self._db.fence.update_if_running(consumer, updates, entry)
        refused = set(fenced.refused)
        if fenced is not AS_ASKED:
            self._totals.finished(outcomes, fenced)
        if states != _ALL_SUCCEEDED:
            self._record_failures(consumer, outcomes, refused)
        if flags & _SEEN_AT_THE_END:
            self._end([o for o in outcomes if o.claimed.flags & _SEEN_AT_THE_END], refused)
        return refused

    def _record_failures(
        self, consumer: str, outcomes: Sequence[Outcome], refused: set[ClaimKey]
    ) -> None:
        """Write the failed attempts, and wake consumers for those jobs that run again at once."""
        others = [
            o for o in outcomes if o.state != State.SUCCEEDED and o.claimed.key not in refused
        ]
        if any(outcome.state == State.READY for outcome in others):
            self._db.notify()
        failures = [_attempt(consumer, o, o.failure) for o in others if o.failure is not None]
        if failures:
            Attempt.objects.using(self._db.alias).bulk_create(failures)

    def _end(self, outcomes: Sequence[Outcome], refused: set[ClaimKey]) -> None:
        """Apply the ends of jobs to their dependents and their tags."""
        written = [outcome for outcome in outcomes if outcome.claimed.key not in refused]
        parents = [o for o in written if o.claimed.flags & Flag.HAS_DEPENDENTS]
        if parents:
            succeeded = [o.claimed.id for o in parents if o.state == State.SUCCEEDED]
            others_ended = [o.claimed.id for o in parents if o.state != State.SUCCEEDED]
            self._pipelines.resolve_dependents(others_ended, succeeded)
        tagged = [o for o in written if o.claimed.flags & Flag.TAGGED and o.state in FINISHED]
        if tagged:
            self._tags.mark_ended([outcome.claimed.id for outcome in tagged])

    def release(self, consumer: str, jobs: Iterable[Claimed]) -> set[ClaimKey]:
        """Return claimed jobs to ready, as if never claimed; return the claims that the fence refused.

        For jobs that were claimed in an earlier transaction `Limits.unblock` must follow.
        """
        now, jobs = time.time(), list(jobs)
        updates = [
            FencedUpdate(
                id=job.id,
                claim=job.claim,
                state=State.READY,
                finished_at=now,
                attempts=job.attempt - 1,
            )
            for job in jobs
        ]
        refused, cancelled = self._db.fence.update_if_running(consumer, updates)
        if len(refused) < len(updates):
            self._db.notify()
        if cancelled:
            self._totals.count_rows(State.CANCELLED, [id for id, _ in cancelled])
        # A job with a cancel request has ended by its release.
        self._pipelines.resolve_dependents(
            [job.id for job in jobs if job.flags & Flag.HAS_DEPENDENTS and job.key not in refused]
        )
        return set(refused)

    def promote(self, now: float, limit: int = PROMOTED_AT_ONCE) -> int:
        """Make up to `limit` due scheduled jobs ready, those that are due first; return their number."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(self._db.promotion, [self._db.to_param(now), limit])
            count: int = cursor.rowcount
            return count

    def record_progress(self, consumer: str, reports: Sequence[Progress]) -> None:
        """Record the progress of running jobs."""
        for claimed, done, total in reports:
            Job.objects.using(self._db.alias).filter(
                pk=claimed.id, consumer=consumer, claim=claimed.claim, state=State.RUNNING
            ).update(progress_done=done, progress_total=total)

    # Queries

    def to_cancel(self, consumer: str) -> list[ClaimKey]:
        """Return the claims of a consumer on running jobs that have a cancel request."""
        wanted = Job.objects.using(self._db.alias).filter(
            state=State.RUNNING, cancel_requested=True, consumer=consumer
        )
        return list(wanted.values_list("pk", "claim"))

    def next_due(self) -> float | None:
        """Return the time at which the next scheduled job is due; None when none is scheduled."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(_NEXT_DUE.format(next_due=self._db.next_due))
            (value,) = cursor.fetchone()
        return self._due(value)

    def _due(self, value: Any) -> float | None:
        if value is None:
            return None
        try:
            return self._db.to_seconds(value)
        except (AttributeError, TypeError, ValueError):  # a row by hand, which `Repair` fails
            return time.time() + 1.0

    def outlook(self, now: float) -> Outlook:
        """Return what others can change that a claim depends on."""
        statement = _OUTLOOK.format(next_due=self._db.next_due)
        with self._db.connection.cursor() as cursor:
            cursor.execute(statement, [self._db.to_param(now)])
            rows = cursor.fetchall()
        due, suspects, _ = rows[0]
        paused = frozenset(name for _, _, name in rows if name is not None)
        return Outlook(self._due(due), bool(suspects), paused)

    def has_ready(self, queues: Sequence[str] | None, exclude_names: Sequence[str]) -> bool:
        """Return whether `claim` would find a job, without taking a lock."""
        return self._db.claim_strategy.has_ready(queues, exclude_names)


def _attempt(consumer: str, outcome: Outcome, failure: Failure) -> Attempt:
    return Attempt(
        job_id=outcome.claimed.id,
        number=outcome.claimed.attempt,
        consumer=consumer,
        started_at=to_datetime(outcome.started_at),
        finished_at=to_datetime(outcome.finished_at),
        exception_class=failure.exception_class,
        message=failure.message,
        traceback=failure.traceback,
    )
