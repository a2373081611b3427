"""The turn: one transaction that does all of a consumer's work on the queue since the last one.

One coordinator thread takes the turns, on one connection. Each turn writes the outcomes of the jobs that
ended since the last one, runs the calls of running jobs to the engine, and claims jobs for the free slots
and a read-ahead. No timer batches the work: while a turn commits, outcomes accumulate, and the next turn
takes them all.

A turn that the database refuses because of what it contains is taken again in parts: see `splitting`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from django.db import Error as DatabaseError

from djjp.consumer.batch import Batch
from djjp.consumer.call_queue import CallQueue
from djjp.consumer.claiming import Claimer
from djjp.consumer.ledger import Ledger
from djjp.consumer.pool import Pool
from djjp.consumer.read_ahead import COUNTED
from djjp.consumer.splitting import Splitter
from djjp.engine import Admitted, Claimed, Engine, Refusal
from djjp.models import Flag

# How often a turn is taken that others have made fail, before the consumer pauses.
_TRIES = 3


class Turn:
    """The parts of one turn, in their order."""

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
        self._has_new_due = False  # whether the next due time must be read

    def run(self) -> bool:
        """Take a turn, unless there is nothing to do; return whether there was."""
        claimer, calls = self._claimer, self._call_queue
        batch, now = self._ledger.batch(), time.time()
        room = self.room(len(batch.reported))
        promotes = claimer.is_due(now)
        idle = batch.is_empty() and not calls and not promotes
        if idle and not self._finds_ready(room):
            return False
        claim = (lambda now: claimer.claim(room, now, ending=batch)) if room else None
        try:
            self._take_whole(
                lambda: self.take(batch, now, promotes=promotes, calls=len(calls), claim=claim)
            )
        except Exception as error:
            if self._engine.db.classify(error) not in (Refusal.CONTENT, Refusal.LOCKED):
                raise
            calls.requeue(rolled_back=True)
            Splitter(self._engine, self._ledger, claimer, calls, self.take, self.room).run(error)
        if self._has_new_due:
            self._has_new_due = False
            claimer.next_due = self._engine.jobs.next_due()
        self._forget_statements()
        return True

    def _finds_ready(self, room: int) -> bool:
        """Return whether a turn only to claim is worth it; so it is where a row makes the query fail: the turn
        meets that row too, and singles it out."""
        try:
            return self._claimer.finds_ready(room)
        except Exception as error:
            if self._engine.db.classify(error) is not Refusal.CONTENT:
                raise
            return True

    def _take_whole(self, take: Callable[[], None]) -> None:
        """Take the turn, and again at once if the database has preferred the transaction of another."""
        for _ in range(_TRIES - 1):
            try:
                take()
            except DatabaseError as error:
                if self._engine.db.classify(error) is not Refusal.CONFLICT:
                    raise
                self._call_queue.requeue(rolled_back=True)
            else:
                return
        take()

    def take(
        self,
        batch: Batch,
        now: float,
        *,
        promotes: bool = False,
        calls: int = 0,
        claim: Callable[[float], list[Claimed]] | None = None,
    ) -> None:
        """Commit some writes, a number of calls, a promotion and a claim; then act on them.

        After the commit it uses no database, so that an error always means that nothing was written.
        """
        engine, ledger, claimer = self._engine, self._ledger, self._claimer
        with engine.db.transaction():
            if ledger.deferred.is_wary:
                batch = ledger.deferred.without_locked(batch)
            refused = ledger.write_outcomes(batch)
            if calls:
                self._call_queue.execute(engine, calls)
            if promotes:
                engine.jobs.promote(now)
            ledger.write_releases(batch)
            flags = batch.flags()
            ended = batch.ended_under_limit() if flags & Flag.LIMITED or batch.releases else []
            admitted = claimer.admit(claim(now) if claim else [], ended)
        # From here on it is committed.
        retries = ledger.forget_written(batch, refused)
        self._call_queue.resolve()
        self._forget_settled(batch)
        self._start(admitted)
        claimer.expect_retries(retries)
        if promotes or flags & Flag.DELAYS_CHILD or admitted.throttled:
            self._has_new_due = True
        if (flags & Flag.HAS_DEPENDENTS and not claim) or batch.releases or admitted.unblocked:
            claimer.may_have_ready = True

    def finish(self) -> None:
        """Write the outcomes and release all other jobs, because no further turn comes."""
        self._call_queue.close()
        while self.has_writes():
            self.run()
        if self._ledger:
            self._ledger.release_now(self._ledger.held())

    def has_writes(self) -> bool:
        """Return whether outcomes, calls or jobs to release are waiting to be written."""
        return self._ledger.has_writes or bool(self._call_queue)

    def room(self, ended: int = 0) -> int:
        """Return the number of jobs to claim once a number of outcomes is written."""
        claimer = self._claimer
        return claimer.room(self._pool.slots, self._stalled(), ended)

    def is_stalled(self) -> bool:
        """Return whether jobs that wait for a slot would wait for long."""
        return self._stalled() == self._pool.slots

    def _stalled(self) -> int:
        return self._pool.stalled(self._claimer.read_ahead.stall_threshold())

    def _forget_settled(self, batch: Batch) -> None:
        if batch.releases:
            self._pool.forget(batch.releases)
        if batch.reported:
            self._pool.forget(outcome.claimed for outcome in batch.reported)
            last = batch.reported[-COUNTED:]
            self._claimer.read_ahead.observe([o.finished_at - o.started_at for o in last])

    def _start(self, admitted: Admitted) -> None:
        if admitted.jobs:
            self._ledger.hold(admitted.jobs)
            self._pool.submit(admitted.jobs)

    def _forget_statements(self) -> None:
        """Clear Django's log of statements, which DEBUG fills and a long-lived process cannot afford."""
        connection = self._engine.db.connection
        if connection.queries_logged and not connection.force_debug_cursor:
            connection.queries_log.clear()
