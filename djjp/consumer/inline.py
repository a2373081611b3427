"""Inline: run due jobs in the calling thread and on its own connections, one by one.

This is for users' tests, which wrap their work in transactions that never commit: a consumer beside such a
test would see none of it. No lock, heartbeat or journal shows that this thread runs jobs, so no consumer
must share the queue with it, and jobs that others have left running are not rescued. A job that takes too
long is not stopped, because the thread that could stop it is the one that runs it.
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
from djjp.jobs.enqueue import send_pending
from djjp.outbox.relay import sweep


def run_due(
    queues: Sequence[str] | None = None, max_jobs: int | None = None, *, relay: bool = True
) -> int:
    """Run due jobs, and the jobs that these make ready, until none is left; return the number of executions.

    Args:
        queues: the queues to serve; None for all.
        max_jobs: stop after this many executions.
        relay: first, and after each job, enqueue the calls that wait in the outboxes, or for a
            TestCase's commit.
    """
    runner = _Runner(QueueSelector(None if queues is None else [Rank(name) for name in queues]))
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

    def __init__(self, queues: QueueSelector) -> None:
        self._engine: Engine = current()
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
                if jobs := claimer.admit(claimer.claim(1, now)).jobs:
                    self.ledger.hold(jobs)
                    return jobs[0]
        return None

    def run(self, claimed: Claimed) -> None:
        """Run a claimed job and write its outcome."""
        with _savepoints():
            outcome = Execution(claimed, self.ledger.report_progress, self.ledger.owner).run()
        if _is_interrupted(outcome):
            # The job did not raise it: somebody wants the tests to stop.
            self.ledger.release([claimed])
            raise KeyboardInterrupt
        self.ledger.report(outcome)
        batch = self.ledger.batch()
        with self._engine.db.transaction():
            accepted = self.ledger.write_outcomes(batch)
            self._claimer.admit([], batch.ended_under_limit())
        self.ledger.settle(batch, accepted)


def _is_interrupted(outcome: Outcome) -> bool:
    failure = outcome.failure
    return failure is not None and failure.exception_class == "builtins.KeyboardInterrupt"


@contextmanager
def _savepoints() -> Iterator[None]:
    """Keep a failure inside the job from breaking the transactions that are open around it.

    On PostgreSQL a failed statement makes its whole transaction useless. A consumer's job has none around
    it. Here, what the job did on such a connection is rolled back, and the rest is kept.
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
