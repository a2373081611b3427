"""Jobs, the hot path: enqueue, claim, finish, release, promote.

`tests/engine` states what each verb promises, on both databases.

**The fence.** What a consumer reports of a job is written only while the row says that this consumer runs this
attempt of it. A late report changes nothing, and the caller gets the ids that passed. `finish`, `release` and
`record_progress` are fenced; `Database.update_if_running` is the one statement of `finish` and `release`.

Times are seconds since the epoch (`time.time()`) throughout the engine, so that no time zone enters a statement.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

from djjp.durations import to_datetime
from djjp.engine.database import TABLE, Database
from djjp.engine.pipelines import Pipelines
from djjp.engine.records import (
    NO_HOLDERS,
    Claimed,
    Failure,
    FencedUpdate,
    KeyHolders,
    NewGraph,
    NewJob,
    Outcome,
    Progress,
)
from djjp.engine.unique_keys import UniqueKeys
from djjp.models import FINISHED, Attempt, Flag, Job, State


class Jobs:
    """Enqueue jobs, and run them through a consumer's turn."""

    def __init__(self, db: Database, pipelines: Pipelines, unique_keys: UniqueKeys) -> None:
        self._db = db
        self._pipelines = pipelines
        self._unique_keys = unique_keys

    # Enqueue

    def enqueue(self, job: NewJob) -> KeyHolders:
        """Write one job, in a transaction of its own unless one is open; return the holder of its unique key."""
        if job.flags & Flag.CONSTRAINED:
            return self._unique_keys.insert_constrained([job])
        self._db.insert_plain(job)
        return NO_HOLDERS

    def enqueue_many(self, jobs: Sequence[NewJob]) -> KeyHolders:
        """Write many jobs, all or none, except those whose unique key is held; return the holders."""
        if any(job.flags & Flag.CONSTRAINED for job in jobs):
            return self._unique_keys.insert_constrained(jobs)
        self._db.insert_many(jobs)
        return NO_HOLDERS

    def relay(self, jobs: Sequence[NewJob | NewGraph], check_fresh: Callable[[], None]) -> None:
        """Write jobs and pipelines that were read in an outbox, all or none, except those relayed before.

        Args:
            check_fresh: raises when what was read is too old to be written. It is called once no other relay
                of these jobs can intervene: see `djjp.outbox.relay`.
        """
        with self._db.transaction():
            # In one order, so that two relays do not wait for each other.
            new = self._db.record_receipts(sorted(job.id for job in jobs), time.time())
            check_fresh()
            for graph in jobs:
                if isinstance(graph, NewGraph) and graph.id in new:
                    self._pipelines.enqueue(graph)
            arrived = [job for job in jobs if isinstance(job, NewJob) and job.id in new]
            if arrived:
                self.enqueue_late(arrived)
            units = [unit for unit in jobs if unit.id in new]
            steps = [s for u in units for s in (u.jobs if isinstance(u, NewGraph) else [u])]
            if cancelled := [job.id for job in steps if job.state == State.CANCELLED]:
                self._end_cancelled(cancelled)

    def enqueue_late(self, jobs: Sequence[NewJob]) -> None:
        """Write jobs whose handles exist already; cancel those whose unique key is held, with a reason."""
        held = self.enqueue(jobs[0]) if len(jobs) == 1 else self.enqueue_many(jobs)
        for job in jobs:
            if job.id in held:
                self._db.insert_whole([job._replace(state=State.CANCELLED)])
                self._end_cancelled([job.id], f"job {held[job.id].id} has its unique key")

    def _end_cancelled(self, ids: Iterable[UUID], reason: str = "cancelled on request") -> None:
        """Record the end of jobs that entered the queue as cancelled."""
        self._db.update_if(
            "finished_at = %s, reason = %s",
            "state = 'cancelled' AND finished_at IS NULL",
            [self._db.to_param(time.time()), reason],
            ids,
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

        Like `finish`, it belongs inside `Database.transaction()`. Each database has its own claim strategy.

        Args:
            consumer: the name of the consumer that takes them.
            queues: the queues to take from; None for all.
            exclude_names: names of jobs to skip, because this consumer's code does not define them.
        """
        jobs = self._db.claim(consumer, limit, now, queues, exclude_names)
        return self._pipelines.with_inputs(jobs)

    def finish(self, consumer: str, outcomes: Sequence[Outcome]) -> set[UUID]:
        """Write the outcomes of attempts, as one batch; return the ids that passed the fence.

        A failed attempt is kept as an `Attempt` row.
        """
        updates = [_update_for(consumer, outcome) for outcome in outcomes]
        accepted = self._db.update_if_running(consumer, updates)
        others = [o for o in outcomes if o.state != State.SUCCEEDED and o.claimed.id in accepted]
        if any(outcome.state == State.READY for outcome in others):
            self._db.notify()
        failures = [_attempt(consumer, o, o.failure) for o in others if o.failure is not None]
        if failures:
            Attempt.objects.using(self._db.alias).bulk_create(failures)
        parents = [o for o in outcomes if o.claimed.flags & Flag.HAS_DEPENDENTS]
        if parents:
            ended = [(o.claimed.id, o.state) for o in parents if o.claimed.id in accepted]
            succeeded = [id for id, state in ended if state == State.SUCCEEDED]
            others_ended = [id for id, state in ended if state != State.SUCCEEDED]
            self._pipelines.resolve_dependents(others_ended, succeeded)
        return accepted

    def release(self, consumer: str, jobs: Iterable[Claimed]) -> set[UUID]:
        """Return claimed jobs to ready, as if they had never been claimed.

        For jobs that were claimed in an earlier transaction `Limits.unblock` must follow.
        """
        now, jobs = time.time(), list(jobs)
        updates = [
            FencedUpdate(
                id=job.id,
                attempt=job.attempt,
                state=State.READY,
                finished_at=now,
                attempts=job.attempt - 1,
            )
            for job in jobs
        ]
        accepted = self._db.update_if_running(consumer, updates)
        if accepted:
            self._db.notify()
        # A job with a cancel request has ended by its release.
        self._pipelines.resolve_dependents(
            [job.id for job in jobs if job.flags & Flag.HAS_DEPENDENTS and job.id in accepted]
        )
        return accepted

    def promote(self, now: float) -> int:
        """Make the due scheduled jobs ready; return their number."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(self._db.promotion, [self._db.to_param(now)])
            count: int = cursor.rowcount
            return count

    def record_progress(self, consumer: str, reports: Sequence[Progress]) -> None:
        """Record the progress of running jobs."""
        for claimed, done, total in reports:
            Job.objects.using(self._db.alias).filter(
                pk=claimed.id, consumer=consumer, attempts=claimed.attempt, state=State.RUNNING
            ).update(progress_done=done, progress_total=total)

    # Queries

    def to_cancel(self, consumer: str) -> list[UUID]:
        """Return the running jobs of a consumer that have a cancel request."""
        wanted = Job.objects.using(self._db.alias).filter(
            state=State.RUNNING, cancel_requested=True, consumer=consumer
        )
        return list(wanted.values_list("pk", flat=True))

    def next_due(self) -> float | None:
        """Return the time at which the next scheduled job is due; None when none is scheduled."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(f"SELECT min(run_after) FROM {TABLE} WHERE state = 'scheduled'")
            (value,) = cursor.fetchone()
            return None if value is None else self._db.to_seconds(value)

    def has_ready(self, queues: Sequence[str] | None, exclude_names: Sequence[str]) -> bool:
        """Return whether `claim` would find a job, without taking a lock."""
        return self._db.has_ready(queues, exclude_names)


def _update_for(consumer: str, outcome: Outcome) -> FencedUpdate:
    claimed = outcome.claimed
    if outcome.state not in FINISHED:  # the job runs again, on any consumer
        return FencedUpdate(
            id=claimed.id,
            attempt=claimed.attempt,
            state=outcome.state,
            finished_at=outcome.finished_at,
            attempts=claimed.attempt,
            run_after=outcome.run_after,
            reason=outcome.reason,
        )
    return FencedUpdate(
        id=claimed.id,
        attempt=claimed.attempt,
        state=outcome.state,
        result=outcome.result,
        started_at=outcome.started_at,
        finished_at=outcome.finished_at,
        consumer=consumer,
        attempts=claimed.attempt,
        reason=outcome.reason,
    )


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
