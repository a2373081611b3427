"""Inline: run due jobs in the calling thread and on its own connections, one by one.

This is for users' tests, which wrap their work in transactions that never commit: a consumer beside such a
test would see none of it. No lock, heartbeat or journal shows that this thread runs jobs, so no consumer
must share the queue with it, and running jobs of dead consumers are not rescued. A job that exceeds its
timeout is not stopped, because the only thread that could stop it runs it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.db import DatabaseError, connections

from djjp.consumer import connections as job_connections
from djjp.consumer.claiming import Claimer
from djjp.consumer.execution import Execution
from djjp.consumer.heartbeat import ConsumerName
from djjp.consumer.ledger import Ledger
from djjp.consumer.serving import QueueSelector, Rank
from djjp.engine import Claimed, Engine, Outcome, current
from djjp.jobs import registry
from djjp.jobs.enqueue import send_pending
from djjp.models import Flag, Job, State
from djjp.outbox.relay import sweep


def run_due(
    queues: Sequence[str] | None = None,
    max_jobs: int | None = None,
    *,
    relay: bool = True,
    skip_delays: bool = False,
    raise_errors: bool = False,
) -> int:
    """Run due jobs, including those that become ready meanwhile, and return the number of executions.

    Args:
        queues: the queues to serve; None for all.
        max_jobs: stop after this many executions.
        relay: first, and after each job, enqueue the calls that wait in the outboxes, or for a
            TestCase's commit.
        skip_delays: once no job is due, run scheduled jobs, the earliest first; and apply no rate.
        raise_errors: raise the exception of the first job that fails for good, once it is recorded; not of
            a step whose failure goes on in place of its result.
    """
    selector = QueueSelector(None if queues is None else [Rank(name) for name in queues])
    runner = _Runner(selector, skip_delays=skip_delays, raise_errors=raise_errors)
    with job_connections.preserve():
        while max_jobs is None or runner.ledger.executed < max_jobs:
            if relay:
                sweep()
                send_pending()
            claimed = runner.claim()
            if claimed is None:
                break
            runner.run(claimed)
    return runner.ledger.executed


class _Runner:
    """A consumer without a pool: it claims one job, runs it and writes its outcome."""

    def __init__(self, queues: QueueSelector, *, skip_delays: bool, raise_errors: bool) -> None:
        self._engine: Engine = current()
        self._queues = queues
        self._skips_delays = skip_delays
        self._raises_errors = raise_errors
        self.ledger = Ledger(self._engine, ConsumerName.new().text)
        self._claimer = Claimer(self._engine, self.ledger, queues)

    def claim(self) -> Claimed | None:
        """Claim the next job that this process can run; return None when there is none."""
        claimer, now = self._claimer, time.time()
        with self._engine.db.transaction():
            claimer.refresh(now)
            if claimer.is_due(now):
                self._engine.jobs.promote(now)
            while claimer.may_have_ready:
                if jobs := self._admit(claimer.claim(1, now, recheck_pauses=False)):
                    return jobs[0]
            if self._skips_delays:
                return self._claim_scheduled(now)
        return None

    def _admit(self, claimed: list[Claimed]) -> list[Claimed]:
        if self._skips_delays:
            claimed = [job._replace(flags=job.flags & ~Flag.RATE_LIMITED) for job in claimed]
        jobs = self._claimer.admit(claimed).jobs
        self.ledger.hold(jobs)
        return jobs

    def _claim_scheduled(self, now: float) -> Claimed | None:
        """Claim the earliest job that waits for a time, in the open transaction."""
        jobs = Job.objects.using(self._engine.db.alias)
        waiting = jobs.filter(state=State.SCHEDULED).order_by("run_after", "pk")
        columns = waiting.values_list("pk", "queue", "name", "arguments")
        for key, queue, name, arguments in columns.iterator(chunk_size=10):
            if self._queues.ranked([queue]) and registry.can_run(name, arguments):
                jobs.filter(pk=key).update(state=State.READY)
                claimed = self._claimer.claim_keys(self._engine.db.keys([key]), now)
                if admitted := self._admit(claimed):  # it may have expired
                    return admitted[0]
        return None

    def run(self, claimed: Claimed) -> None:
        """Run a claimed job and write its outcome."""
        execution = _Execution(claimed, self.ledger.report_progress, self.ledger.owner)
        with _savepoints():
            outcome = execution.run()
        assert outcome is not None  # noqa: S101  (nothing refuses its start)
        if _is_interrupted(outcome):
            # The job did not raise it: Ctrl-C stops the test run.
            self.ledger.release_now([claimed])
            raise KeyboardInterrupt
        self.ledger.report(outcome)
        batch = self.ledger.batch()
        with self._engine.db.transaction():
            refused = self.ledger.write_outcomes(batch)
            self._claimer.admit([], batch.ended_under_limit())
        self.ledger.forget_written(batch, refused)
        if self._raises_errors and outcome.state == State.FAILED and not self._tolerates(claimed):
            execution.reraise()

    def _tolerates(self, failed: Claimed) -> bool:
        """Return whether the pipeline of a failed job goes on with its failure, by `return_exceptions`."""
        if failed.flags & Flag.ON_FAILURE:
            return False
        row = Job.objects.using(self._engine.db.alias).filter(pk=failed.id)
        pipeline = row.values_list("pipeline", flat=True).first()
        # A failure that is not tolerated has cancelled the last job by now, or is that of a last job.
        return pipeline is not None and all(
            cause.id != failed.id for cause in self._engine.causes.of_pipeline(pipeline)
        )


class _Execution(Execution):
    """An execution that keeps the exception of its job."""

    error: BaseException | None = None

    def failed(self, error: BaseException) -> Outcome:
        self.error = error
        return super().failed(error)

    def reraise(self) -> None:
        """Raise the exception of the job; return if it failed without one."""
        if self.error is not None:
            raise self.error


def _is_interrupted(outcome: Outcome) -> bool:
    failure = outcome.failure
    return failure is not None and failure.exception_class == "builtins.KeyboardInterrupt"


@contextmanager
def _savepoints() -> Iterator[None]:
    """Keep a failure inside the job from breaking the transactions that are open around it.

    On PostgreSQL a failed statement makes its whole transaction useless. Around a consumer's job no
    transaction is open. Here, only the job's own work on such a connection is rolled back.
    """
    points: list[tuple[Any, Any]] = [
        (connection, connection.savepoint())
        for connection in connections.all(initialized_only=True)
        if connection.in_atomic_block
    ]
    yield
    for connection, point in reversed(points):
        try:
            connection.savepoint_commit(point)
        except DatabaseError:
            connection.set_rollback(False)
            connection.savepoint_rollback(point)
            connection.savepoint_commit(point)
