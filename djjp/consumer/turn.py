"""The turn: one transaction that does all of a consumer's work on the queue since the last one.

One coordinator thread takes the turns, on one connection. Each turn writes the outcomes of the jobs that
ended since the last one, runs the calls of running jobs to the engine, and claims jobs for the free slots
and a read-ahead. No timer batches the work: while a turn commits, outcomes accumulate, and the next turn
takes them all.
"""

from __future__ import annotations

import time

from djjp.consumer.call_queue import CallQueue
from djjp.consumer.claiming import Claimer
from djjp.consumer.ledger import Batch, Ledger
from djjp.consumer.pool import Pool
from djjp.engine import Admitted, Engine
from djjp.models import Flag


class Turn:
    """One turn of a consumer, as a recipe. It keeps nothing between turns."""

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        claimer: Claimer,
        call_queue: CallQueue,
        pool: Pool,
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._claimer = claimer
        self._call_queue = call_queue
        self._pool = pool

    def run(self) -> bool:
        """Take a turn, unless there is nothing to do; return whether there was."""
        engine, ledger, claimer = self._engine, self._ledger, self._claimer
        batch, now = ledger.batch(), time.time()
        room = self.room(len(batch.outcomes))
        promotes = claimer.is_due(now)
        idle = batch.is_empty() and not self._call_queue and not promotes
        if idle and not claimer.finds_ready(room):
            return False
        with engine.db.transaction():
            accepted = ledger.write_outcomes(batch)
            self._call_queue.execute(engine)
            if promotes:
                engine.jobs.promote(now)
            ledger.write_returns(batch)
            flags = batch.flags()
            ended = batch.ended_under_limit() if flags & Flag.LIMITED or batch.returns else []
            admitted = claimer.admit(claimer.claim(room, now) if room else [], ended)
        # From here on it is committed.
        retries = ledger.settle(batch, accepted)
        self._call_queue.resolve()
        self._forget_ended(batch)
        self._start(admitted)
        claimer.expect_retries(retries)
        if promotes or flags & Flag.DELAYS_CHILD or admitted.throttled:
            claimer.next_due = engine.jobs.next_due()
        if (flags & Flag.HAS_DEPENDENTS and not room) or batch.returns or admitted.unblocked:
            claimer.may_have_ready = True
        self._forget_statements()
        return True

    def room(self, ended: int = 0) -> int:
        """Return the number of jobs to claim once a number of outcomes is written."""
        claimer = self._claimer
        return claimer.room(self._pool.stalled(claimer.read_ahead.stall_threshold()), ended)

    def _forget_ended(self, batch: Batch) -> None:
        if batch.reported:
            self._pool.forget([outcome.claimed for outcome in batch.reported])
            self._claimer.read_ahead.observe([o.finished_at - o.started_at for o in batch.reported])

    def _start(self, admitted: Admitted) -> None:
        if admitted.jobs:
            self._ledger.hold(admitted.jobs)
            self._pool.submit(admitted.jobs)

    def _forget_statements(self) -> None:
        """Clear Django's log of statements, which DEBUG fills and a long-lived process cannot afford."""
        connection = self._engine.db.connection
        if connection.queries_logged and not connection.force_debug_cursor:
            connection.queries_log.clear()
