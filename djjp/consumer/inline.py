"""Inline: runs due jobs here and now, one by one, in the calling thread and on its own connections.

It is for users' tests, which wrap what they do in transactions that never commit: a consumer beside them
would see nothing of it. No lock, no heartbeat and no note tells that this thread works on jobs, so
nobody is to share the queue with it; what others have left running is not rescued. A job that takes too
long is not stopped, for the thread that could do so is the one that runs it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.db import DatabaseError, connections

from djjp.consumer import connections as tidying
from djjp.consumer.execution import Execution
from djjp.consumer.liveness import new_name
from djjp.consumer.serving import Rank, Serving
from djjp.engine import Claimed, Engine, Outcome, Progress, current
from djjp.jobs import registry
from djjp.jobs.enqueue import send_pending
from djjp.models import FINISHED, Flag
from djjp.outbox.relay import sweep

logger = logging.getLogger("djjp.consumer")


def run_due(
    queues: Sequence[str] | None = None, max_jobs: int | None = None, *, relay: bool = True
) -> int:
    """Run what is due, and what comes of it, until nothing is left; returns how many executions there were.

    Args:
        queues: the queues to serve; None for all.
        max_jobs: stop after this many executions.
        relay: first, and after each job, enqueue what waits in the outboxes, or for a TestCase's commit.
    """
    engine, name, executed = current(), new_name(), 0
    unknown: list[str] = []
    serving = Serving(None if queues is None else [Rank(name) for name in queues])
    with tidying.preserve():
        while max_jobs is None or executed < max_jobs:
            if relay:
                sweep()
                send_pending()
            claimed = _claim(engine, name, serving, unknown)
            if claimed is None:
                break
            _run(engine, name, claimed)
            executed += 1
    return executed


def _claim(engine: Engine, name: str, serving: Serving, unknown: list[str]) -> Claimed | None:
    """The next job that this process knows; None when there is none."""
    now = time.time()
    with engine.db.transaction():
        due = engine.jobs.next_due()
        if due is not None and due <= now:
            engine.jobs.promote(now)
        serving.paused = engine.queues.paused(now)
        looks = serving.looks_for_names
        while claimed := serving.take(
            1,
            serving.served(engine.queues.with_ready() if looks else []),
            lambda queues, limit: engine.jobs.claim(
                name, limit, now, queues=queues, exclude_names=unknown
            ),
        ):
            (job,) = claimed
            if not registry.knows(job.name, job.arguments):
                engine.jobs.release(name, claimed)
                unknown.append(job.name)
                logger.warning("left in the queue: no job named %r is registered here", job.name)
            elif not job.flags & Flag.NEEDS_ADMISSION or engine.admission.admit(claimed).jobs:
                return job
    return None


def _run(engine: Engine, name: str, claimed: Claimed) -> None:
    reports: list[Progress] = []
    with _savepoints():
        outcome = Execution(claimed, reports.append, name).run()
    failure = outcome.failure
    if failure is not None and failure.exception_class == "builtins.KeyboardInterrupt":
        # The job did not ask for it: somebody wants the tests to stop.
        with engine.db.transaction():
            engine.jobs.release(name, [claimed])
        raise KeyboardInterrupt
    with engine.db.transaction():
        if reports:
            engine.jobs.record_progress(name, reports[-1:])
        accepted = engine.jobs.finish(name, [outcome])
        engine.limits.unblock([claimed.id] if claimed.flags & Flag.LIMITED else [])
    _log(outcome, claimed.id in accepted)


def _log(outcome: Outcome, accepted: bool) -> None:
    """What a consumer would log."""
    job, failure = outcome.claimed, outcome.failure
    if not accepted:
        logger.warning("%s %s was taken away while it ran", job.name, job.id)
    elif failure is not None:
        logger.warning(
            "%s %s failed%s: %s: %s",
            job.name,
            job.id,
            "" if outcome.state in FINISHED else " and will run again",
            failure.exception_class,
            failure.message,
        )


@contextmanager
def _savepoints() -> Iterator[None]:
    """Keep a failure inside the job from breaking the transactions that are open around it.

    On PostgreSQL an error of one statement makes its whole transaction useless. A consumer's job has
    none around it; here, what the job did on such a connection is undone, and the rest is saved.
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
