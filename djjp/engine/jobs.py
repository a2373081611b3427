"""The verbs of the queue: every statement that enqueues, claims and finishes jobs, by name.

Both databases implement this one list, and `tests/engine/test_contract.py` states what each verb promises.
What a database does in its own way stands in its own module; everything above speaks verbs only.

Two rules hold throughout:

* **The fence.** What a consumer reports of a job is written only while the row still says that this
  consumer runs this attempt of it. Whoever comes late changes nothing and is told so.
* **Times are seconds since the epoch** (`time.time()`), so that no time zone enters a statement.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol
from uuid import UUID

from djjp.engine.admission import Screening
from djjp.engine.control import ByPeople
from djjp.engine.database import TABLE, moment
from djjp.engine.queues import Queues
from djjp.engine.receipts import Relays
from djjp.engine.received import Received
from djjp.engine.records import NOBODY, Claimed, Failure, Held, NewGraph, NewJob, Outcome, Settled
from djjp.engine.requirements import Fitness
from djjp.engine.schedules import Timetable
from djjp.engine.upkeep import Upkeep
from djjp.models import FINISHED, Attempt, Flag, State


class Listener(Protocol):
    """Tells a waiting consumer that somebody wrote to the queue.

    To lose a wake-up is harmless: the consumer looks again after `interval()` in any case.
    """

    def fileno(self) -> int | None:
        """A descriptor that becomes readable on a wake-up, or None where there is only `woken()`."""

    def woken(self) -> bool:
        """Whether somebody wrote since the last call."""

    def interval(self, quiet: float) -> float:
        """Seconds until `woken()` should be asked again, after `quiet` seconds without any work."""


class Claims(ByPeople, Relays, Upkeep, Screening, Queues, Timetable, Received, Fitness):
    """The queue on one database alias, by its verbs: here those of the hot path."""

    _promotion = f"UPDATE {TABLE} SET state = 'ready' WHERE state = 'scheduled' AND run_after <= %s"

    # Enqueue

    def enqueue(self, job: NewJob) -> Held:
        """Write one job, or tell who has its unique key; in a transaction of its own unless one is open."""
        if job.flags & Flag.CONSTRAINED:
            return self.enqueue_on_terms([job])
        self._enqueue(job)
        return NOBODY

    def enqueue_many(self, jobs: Sequence[NewJob]) -> Held:
        """Write many jobs, all or none of them, but for those whose unique key is held; returns who holds it."""
        if any(job.flags & Flag.CONSTRAINED for job in jobs):
            return self.enqueue_on_terms(jobs)
        self._enqueue_many(jobs)
        return NOBODY

    @abstractmethod
    def _enqueue(self, job: NewJob) -> None:
        """Write one plain job: one statement."""

    @abstractmethod
    def _enqueue_many(self, jobs: Sequence[NewJob]) -> None:
        """Write many plain jobs."""

    def relay(self, jobs: Sequence[NewJob | NewGraph], fresh: Callable[[], None]) -> None:
        """Write jobs and pipelines that were read in an outbox, all or none, but for those that came before.

        Args:
            fresh: raises when what was read is too old to be written. It is asked once no other relay
                of these jobs can come between: see `djjp.outbox.relay`.
        """
        with self.turn():
            # In one order, so that two relays do not wait for each other.
            new = self._note_relayed(sorted(job.id for job in jobs), time.time())
            fresh()
            for graph in jobs:
                if isinstance(graph, NewGraph) and graph.id in new:
                    self.enqueue_graph(graph)
            arrived = [job for job in jobs if isinstance(job, NewJob) and job.id in new]
            if arrived:
                self.enqueue_late(arrived)
            units = [unit for unit in jobs if unit.id in new]
            steps = [s for u in units for s in (u.jobs if isinstance(u, NewGraph) else [u])]
            if cancelled := [job.id for job in steps if job.state == State.CANCELLED]:
                self.end_cancelled(cancelled, time.time())

    def enqueue_late(self, jobs: Sequence[NewJob]) -> None:
        """Write jobs whose handles are out already: one whose unique key is held is cancelled, and says so."""
        held = self.enqueue(jobs[0]) if len(jobs) == 1 else self.enqueue_many(jobs)
        for job in jobs:
            if job.id in held:
                reason = f"job {held[job.id].id} has its unique key"
                self._insert_whole([job._replace(state=State.CANCELLED)])
                self.end_cancelled([job.id], time.time(), reason)

    # The consumer's turn

    @abstractmethod
    def claim(
        self,
        consumer: str,
        limit: int,
        now: float,
        *,
        queues: Sequence[str] | None = None,
        without: Sequence[str] = (),
    ) -> list[Claimed]:
        """Take up to `limit` ready jobs: higher priority first, then first in, first out.

        Like `finish`, it belongs inside `turn()`.

        Args:
            consumer: who takes them.
            queues: the queues to take from; None for all.
            without: names of jobs to pass over, because this consumer's code does not know them.
        """

    def finish(self, consumer: str, outcomes: Sequence[Outcome]) -> set[UUID]:
        """Write how attempts ended, as one batch; returns the ids that passed the fence.

        A failed attempt is kept as an `Attempt` row.
        """
        accepted = self._settle(consumer, [_settled(consumer, outcome) for outcome in outcomes])
        others = [o for o in outcomes if o.state != State.SUCCEEDED and o.claimed.id in accepted]
        if any(outcome.state == State.READY for outcome in others):
            self.announce()
        failures = [_attempt(consumer, o, o.failure) for o in others if o.failure is not None]
        if failures:
            Attempt.objects.using(self.alias).bulk_create(failures)
        awaited = [o for o in outcomes if o.claimed.flags & Flag.HAS_DEPENDENTS]
        if awaited:
            ended = [(o.claimed.id, o.state) for o in awaited if o.claimed.id in accepted]
            good = [id for id, state in ended if state == State.SUCCEEDED]
            self.follow([id for id, state in ended if state != State.SUCCEEDED], good)
        return accepted

    def release(self, consumer: str, jobs: Iterable[Claimed]) -> set[UUID]:
        """Give claimed jobs back to ready, as if they had never been claimed.

        For those that were claimed in an earlier transaction `let_in` follows.
        """
        now, jobs = time.time(), list(jobs)
        rows = [
            Settled(job.id, job.attempt, State.READY, None, None, now, None, job.attempt - 1)
            for job in jobs
        ]
        accepted = self._settle(consumer, rows)
        if accepted:
            self.announce()
        # One that someone wants to stop has ended by it.
        self.follow(
            [job.id for job in jobs if job.flags & Flag.HAS_DEPENDENTS and job.id in accepted]
        )
        return accepted

    @abstractmethod
    def _settle(self, consumer: str, rows: Sequence[Settled]) -> set[UUID]:
        """The fence: update each row that `consumer` still runs in that attempt; returns their ids."""

    def promote(self, now: float) -> int:
        """Make the scheduled jobs whose time has come ready; returns how many there were."""
        with self.connection.cursor() as cursor:
            cursor.execute(self._promotion, [self._stamp(now)])
            count: int = cursor.rowcount
            return count

    # Looking, without a write

    def next_due(self) -> float | None:
        """When the next scheduled job is due; None when none is scheduled."""
        with self.connection.cursor() as cursor:
            cursor.execute(f"SELECT min(run_after) FROM {TABLE} WHERE state = 'scheduled'")
            (value,) = cursor.fetchone()
            return None if value is None else self._seconds(value)

    @abstractmethod
    def has_ready(self, queues: Sequence[str] | None, without: Sequence[str]) -> bool:
        """Whether `claim` would find a job, asked without taking any lock."""

    # Wake-ups

    @abstractmethod
    def listener(self) -> Listener:
        """A listener on this thread's connection."""


def _settled(consumer: str, outcome: Outcome) -> Settled:
    claimed, state, started, finished, result, _, run_after, reason = outcome
    if state not in FINISHED:  # it will run again, anywhere
        return Settled(
            claimed.id,
            claimed.attempt,
            state,
            None,
            None,
            finished,
            None,
            claimed.attempt,
            run_after,
            reason,
        )
    return Settled(
        claimed.id,
        claimed.attempt,
        state,
        result,
        started,
        finished,
        consumer,
        claimed.attempt,
        None,
        reason,
    )


def _attempt(consumer: str, outcome: Outcome, failure: Failure) -> Attempt:
    return Attempt(
        job_id=outcome.claimed.id,
        number=outcome.claimed.attempt,
        consumer=consumer,
        started_at=moment(outcome.started_at),
        finished_at=moment(outcome.finished_at),
        exception_class=failure.exception_class,
        message=failure.message,
        traceback=failure.traceback,
    )
