"""A consumer's life: it appears, takes turns, waits, and ends; it survives outages of its database."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from django.db import Error as DatabaseError

from djjp import conf
from djjp.consumer.call_queue import CallQueue
from djjp.consumer.claiming import Claimer
from djjp.consumer.heartbeat import ConsumerName, Heartbeat
from djjp.consumer.ledger import Ledger
from djjp.consumer.maintenance import Maintenance
from djjp.consumer.outage import Outage
from djjp.consumer.pool import Pool
from djjp.consumer.pool.coroutines import AsyncPool
from djjp.consumer.pool.threads import ThreadPool
from djjp.consumer.read_ahead import LONGEST
from djjp.consumer.serving import QueueSelector, parse
from djjp.consumer.turn import Turn
from djjp.consumer.wakeup import Wakeup, wait
from djjp.engine import Listener, current
from djjp.outbox import table
from djjp.outbox.sweeper import Sweeper

logger = logging.getLogger("djjp.consumer")

#: Seconds after which a consumer polls the queue, in case a wake-up was missed.
_POLL_EVERY = 1.0
#: Seconds that a consumer which must end waits for a database that is away.
_LAST_WAIT = 3.0


class Consumer:
    """Claims jobs and runs them until it is stopped.

    Args:
        limit: the number of jobs that run at the same time.
        queues: the queues to serve: names or patterns such as `report.*`, the first of them first, or
            with weights such as `mail:3`; None for all.
        exclude_queues: names or patterns of queues not to serve.
        drain: stop when no job is left to run.
        max_jobs: stop after this many executions.
        shutdown_timeout: seconds that running jobs get to end once the consumer was stopped.
        concurrency: "threads" or "asyncio"; None for `DJJP["concurrency"]`.
    """

    def __init__(
        self,
        limit: int,
        *,
        queues: Sequence[str] | None = None,
        exclude_queues: Sequence[str] = (),
        drain: bool = False,
        max_jobs: int | None = None,
        shutdown_timeout: float = 25.0,
        concurrency: str | None = None,
    ) -> None:
        self._engine = current()
        self._limit = limit
        self._drain = drain
        self._shutdown_timeout = shutdown_timeout
        self._concurrency = concurrency or conf.current().concurrency
        self._queues = QueueSelector(None if queues is None else parse(queues), exclude_queues)

        self._wakeup = Wakeup()
        self._call_queue = CallQueue(self._wakeup)
        self._ledger = Ledger(self._engine, ConsumerName.new().text, self._wakeup.set)
        self._pool: Pool = (AsyncPool if self._concurrency == "asyncio" else ThreadPool)(
            limit,
            on_outcome=self._ledger.report,
            on_progress=self._ledger.report_progress,
            call_queue=self._call_queue,
        )
        self._claimer = Claimer(
            self._engine,
            self._ledger,
            self._queues,
            limit=limit,
            max_jobs=max_jobs,
            on_pause=self._give_back_waiting,
        )
        self._turn = Turn(self._engine, self._ledger, self._claimer, self._call_queue, self._pool)
        self._sweeper = Sweeper(self._call_queue.call, table.outboxes())
        self._heartbeat: Heartbeat
        self._maintenance: Maintenance
        # Kept until the process ends: Linux takes some 10 ms to remove a watch on a file.
        self._listener: Listener | None = None
        self._outage: Outage | None = None
        self._stops = 0
        self._poll_at = 0.0  # next poll, in case a wake-up was missed
        self._stop_by = self._enforce_at = 0.0
        self._worked_at = time.monotonic()

    @property
    def name(self) -> str:
        """The name under which this consumer claims at present."""
        return self._ledger.owner

    @property
    def executed(self) -> int:
        """The number of executions whose outcomes are written."""
        return self._ledger.executed

    @property
    def abandoned_threads(self) -> int:
        """The number of threads that were abandoned, with jobs that cannot be stopped."""
        return self._pool.abandoned

    # Called by other threads and signal handlers

    def stop(self) -> None:
        """Claim no more and let the running jobs end; a second call gives them back at once.

        Safe to call from a signal handler.
        """
        self._stops += 1
        self._stop_by = 0.0 if self._stops > 1 else time.monotonic() + self._shutdown_timeout
        self._claimer.stopped = True
        self._wakeup.set()

    def retire(self) -> None:
        """Claim no more and end once the running jobs have ended, however long they take."""
        self._claimer.max_jobs = 0
        self._wakeup.set()

    # The coordinator

    def run(self) -> bool:
        """Work until stopped; return whether each job that was started ended here."""
        self._sweeper.start()
        try:
            while self._attempt():
                pass
            if self._outage is not None:
                return False
            self._ledger.close()
            return not self._ledger
        finally:
            self._call_queue.close()
            self._sweeper.stop()
            self._pool.close()
            self._wakeup.close()

    def _attempt(self) -> bool:
        """Take a step and wait for the next one, or wait for a database that is away; return whether to go on."""
        self._enforce_at = time.monotonic() + self._pool.enforce()
        try:
            listener = self._connect()
            self._step(listener)
            if self._is_over():
                self._heartbeat.deregister()
                self._outage = None
                return False
            self._outage = None
            self._wait(listener)
        except DatabaseError as error:
            return self._endure(error)
        return True

    def _connect(self) -> Listener:
        """Appear to other consumers, or take up the work after an outage; return the listener."""
        if self._listener is None:
            self._appear()
            self._listener = self._engine.db.listener()
        elif self._outage is not None:
            self._ledger.reconcile()
            self._maintenance.after_outage()
        return self._listener

    def _step(self, listener: Listener) -> None:
        self._beat()
        self._poll(listener)
        if self._turn.run():
            self._worked_at = time.monotonic()
        if self._maintenance.work(ending=self._stops > 0):
            self._claimer.may_have_ready = True

    def _appear(self) -> None:
        """Show other consumers that this one lives, under its present name."""
        self._heartbeat = Heartbeat(
            self._engine,
            self.name,
            queues=self._queues.names(),
            limit=self._limit,
            concurrency=self._concurrency,
        )
        self._heartbeat.register()
        self._ledger.open_journal(self._engine.db.runtime_dir(), self._limit + LONGEST)
        self._pool.assign(self.name, self._ledger.may_start)
        self._maintenance = Maintenance(self._engine, self._heartbeat, self._on_declared_dead)

    def _on_declared_dead(self) -> None:
        """Go on as a new consumer: others have declared this one dead, and its jobs are theirs."""
        logger.error(
            "consumer %s was taken for dead; its %d jobs are no longer its own",
            self.name,
            len(self._ledger),
        )
        waiting = self._pool.drain_queue()
        self._pool.cancel(self._ledger.held())
        self._ledger.disown(waiting, ConsumerName.new().text)
        self._appear()

    def _beat(self) -> None:
        """Send a heartbeat if it is due, or if another consumer suspects that this one is dead."""
        if suspected := self._ledger.is_suspected:
            self._maintenance.after_outage()
        self._maintenance.beat()
        if suspected:
            self._ledger.clear_suspicion()

    def _poll(self, listener: Listener) -> None:
        """Read what others have changed, if the listener reports a write or the last poll is long ago."""
        now = time.monotonic()
        if listener.woken() or now >= self._poll_at:
            self._poll_at = now + _POLL_EVERY
            self._claimer.refresh(time.time())
            if self._ledger:
                self._pool.cancel(self._ledger.held(self._engine.jobs.to_cancel(self.name)))

    # Waiting and ending

    def _wait(self, listener: Listener) -> None:
        """Wait for whatever comes first, unless there is something to do."""
        # Armed before anything is read: from here on each outcome, call or signal wakes this thread.
        self._wakeup.armed = True
        now = time.monotonic()
        listens: Listener | None = None
        # With jobs in the pool's queue, only until the slots that they wait for prove to be stalled.
        stall_threshold = self._claimer.read_ahead.stall_threshold()
        timeout = stall_threshold if self._pool.waiting() else _POLL_EVERY
        timeout = min(timeout, self._maintenance.due(), self._enforce_at - now)
        busy = self._has_writes()
        if self._stops:
            timeout = min(timeout, self._stop_by - now)
        elif self._turn.room():
            busy = busy or self._claimer.may_have_ready
            listens = listener
            if (due := self._claimer.next_due) is not None:
                timeout = min(timeout, due - time.time())
        if not busy and wait(self._wakeup, listens, timeout, now - self._worked_at):
            self._poll_at = 0.0
        self._wakeup.armed = False

    def _has_writes(self) -> bool:
        return self._ledger.has_writes or bool(self._call_queue)

    def _is_over(self) -> bool:
        """Give back the jobs that will not run here, and return whether to end."""
        self._end_without_threads()
        stalled = self._pool.stalled(self._claimer.read_ahead.stall_threshold())
        if self._stops or stalled == self._limit:
            self._give_back_waiting()
        if self._has_writes():
            return False
        if self._stops:
            if self._ledger and time.monotonic() >= self._stop_by:
                self._ledger.release(self._ledger.held())
                return True
            return not self._ledger
        if self._ledger:
            return False
        drained = self._drain and self._claimer.is_idle(time.time())
        return self._claimer.is_spent or (drained and self._sweeper.looked.is_set())

    def _end_without_threads(self) -> None:
        """Claim no more once all threads are abandoned."""
        if self._pool.abandoned >= self._limit and self._claimer.max_jobs != 0:
            logger.error("%d threads are lost to jobs that cannot be stopped; ending", self._limit)
            self.retire()
            if self._pool.loop_blocked:
                self.stop()

    def _give_back_waiting(self) -> None:
        self._ledger.give_back(self._pool.drain_queue())

    # Outages

    def _endure(self, error: DatabaseError) -> bool:
        """Pause after an error of the database; return whether there is still time to try again."""
        self._outage = self._outage or Outage(self._engine.db)
        self._call_queue.requeue()
        self._pause(self._outage.fail(error))
        if self._stops and time.monotonic() >= self._stop_by + _LAST_WAIT:
            logger.error("%d jobs are left to be rescued", len(self._ledger))
            return False
        return True

    def _pause(self, seconds: float) -> None:
        """Leave the database alone for a while, or until this consumer is stopped; the pool is looked after."""
        until, stops = time.monotonic() + seconds, self._stops
        while (left := until - time.monotonic()) > 0 and stops == self._stops:
            self._wakeup.armed = True
            wait(self._wakeup, None, min(left, self._enforce_at - time.monotonic()), 0.0)
            self._wakeup.armed = False
            self._enforce_at = time.monotonic() + self._pool.enforce()
