"""A consumer's life: it appears, takes turns, waits, and ends; it survives outages of its database."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError
from django.dispatch import Signal

from djjp import conf, signals
from djjp.consumer.call_queue import CallQueue
from djjp.consumer.claiming import Claimer
from djjp.consumer.heartbeat import ConsumerName, Heartbeat
from djjp.consumer.incidents import start_beside
from djjp.consumer.ledger import Ledger
from djjp.consumer.maintenance import Maintenance
from djjp.consumer.observations import Observations
from djjp.consumer.outage import Outage
from djjp.consumer.pool import Pool
from djjp.consumer.pool.coroutines import AsyncPool
from djjp.consumer.pool.threads import ThreadPool
from djjp.consumer.read_ahead import LONGEST
from djjp.consumer.requests import Requests
from djjp.consumer.serving import QueueSelector, parse
from djjp.consumer.turn import Turn
from djjp.consumer.wakeup import Wakeup, wait
from djjp.engine import Listener, Refusal, current
from djjp.outbox import table
from djjp.outbox.sweeper import Sweeper
from djjp.signals import consumer_started, consumer_stopped

logger = logging.getLogger("djjp.consumer")

#: Seconds after which a consumer polls the queue, in case a wake-up was missed.
_POLL_EVERY = 1.0
# Seconds for which an idle consumer that has claimed a job leaves the interpreter to the job's thread.
_HANDS_OVER = 0.00002
#: Seconds that a consumer which must end waits for a database that is away.
_LAST_WAIT = 3.0


class Consumer:
    """Claims jobs and runs them until it is stopped.

    Args:
        slots: the number of jobs that run at the same time.
        queues: the queues to serve: names or patterns such as `report.*`, the first of them first, or
            with weights such as `mail:3`; None for all.
        exclude_queues: names or patterns of queues not to serve.
        drain: stop when no job is left to run.
        max_jobs: stop after this many executions.
        shutdown_timeout: seconds that running jobs get to end once the consumer was stopped.
        concurrency: "threads" or "asyncio"; None for `DJJP["concurrency"]`.
        token: the end of its name; None for a random one.
    """

    def __init__(
        self,
        slots: int,
        *,
        queues: Sequence[str] | None = None,
        exclude_queues: Sequence[str] = (),
        drain: bool = False,
        max_jobs: int | None = None,
        shutdown_timeout: float = 25.0,
        concurrency: str | None = None,
        token: str | None = None,
    ) -> None:
        self._engine = current()
        self._slots = slots
        self._drain = drain
        self._shutdown_timeout = shutdown_timeout
        self._concurrency = concurrency or conf.current().concurrency
        self._queues = QueueSelector(None if queues is None else parse(queues), exclude_queues)
        self._wakeup = Wakeup()
        self._call_queue = CallQueue(self._wakeup)
        self._ledger = Ledger(self._engine, ConsumerName.new(token).text, self._wakeup.set)
        self._pool: Pool = (AsyncPool if self._concurrency == "asyncio" else ThreadPool)(
            slots,
            on_outcome=self._ledger.report,
            on_progress=self._ledger.report_progress,
            on_put_off=self._ledger.put_off,
            call_queue=self._call_queue,
        )
        self._claimer = Claimer(
            self._engine,
            self._ledger,
            self._queues,
            max_jobs=max_jobs,
            on_pause=self._release_waiting,
        )
        self._turn = Turn(self._engine, self._ledger, self._claimer, self._call_queue, self._pool)
        #: Does what its row asks.
        self.requests = Requests(self._engine, self._claimer, self._pool, self._stop_once)
        self._sweeper = Sweeper(self._call_queue.call, table.outboxes())
        self._observations = Observations(
            self._engine, self._pool, self._sweeper, lambda: self._listener
        )
        self._heartbeat: Heartbeat
        self._maintenance: Maintenance
        # Kept until the process ends: Linux takes some 10 ms to remove a watch on a file.
        self._listener: Listener | None = None
        self._outage: Outage | None = None
        #: Called with the number of jobs that a consumer which will claim no more still waits for.
        self.on_ending: Callable[[int], object] = lambda running: None
        #: Called by the coordinator in each round, at least about once a second, with what keeps the consumer from
        #: being ready to run jobs, if anything does.
        self.on_round: Callable[[str | None], object] = lambda obstacle: None
        self._stops, self._is_registered, self._has_started = 0, False, False
        self._poll_at = self._stop_by = self._enforce_at = 0.0
        # Whether the listener has reported a write that no read has followed.
        self._is_woken = False
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
        """Claim no more and let the running jobs end; a second call releases them at once.

        Safe to call from a signal handler.
        """
        self._stops += 1
        self._stop_by = 0.0 if self._stops > 1 else time.monotonic() + self._shutdown_timeout
        self._claimer.stopped = True
        self._wakeup.set()

    def _stop_once(self) -> None:
        if not self._stops:
            self.stop()

    def retire(self) -> None:
        """Claim no more and end once the running jobs have ended, however long they take."""
        self._claimer.max_jobs = 0
        self._wakeup.set()

    # The coordinator

    def run(self) -> bool:
        """Work until stopped; return whether each job that was started ended here."""
        graceful = False
        try:
            graceful = self._run()
        finally:
            if self._has_started:
                self._announce(consumer_stopped, executed=self.executed, graceful=graceful)
        return graceful

    def _run(self) -> bool:
        try:
            while self._wakeup.guard.hold(self._attempt):
                pass
            if self._outage is not None:
                return False
            self._ledger.close()
            return not self._ledger
        except Exception as error:
            if not isinstance(error, ImproperlyConfigured):
                self._wakeup.guard.hold(partial(self._break_off, error))
            raise
        finally:
            self._call_queue.close()
            self._sweeper.stop()
            self._pool.close()
            self._wakeup.close()

    def _attempt(self) -> bool:
        """Do one round and wait for the next, or wait for a database that is away; return whether to go on."""
        self._enforce_at = time.monotonic() + self._pool.enforce()
        self._sweeper.start()
        try:
            # An idle consumer would wait for ever beside another file; heartbeats write into it without a turn.
            self._engine.db.confirm(self._engine.db.connection)
            listener = self._connect()
            self._work(listener)
            self.on_round(self._claimer.obstacle)
            if self._is_over():
                self._maintenance.finish()
                listener.close()
                self._heartbeat.deregister()
                self._end_outage()
                return False
            self._end_outage()
            self._wait(listener)
        except (DatabaseError, OSError) as error:
            return self._endure(error)
        return True

    def _announce(self, signal: Signal, **values: object) -> None:
        """Call the receivers of a signal on a thread of their own; wait a moment for it when the consumer ends."""
        if signal.receivers:
            values |= {"consumer": self.name, "queues": self._queues.names()}
            values |= {"slots": self._slots, "concurrency": self._concurrency}
            thread = start_beside(partial(signals.send, signal, Consumer, **values))
            if signal is consumer_stopped and thread is not None:
                thread.join(_LAST_WAIT)

    def _connect(self) -> Listener:
        """Register once, or resume after an outage; send a heartbeat if one is due; return the listener."""
        if not self._is_registered:
            self._appear()
        elif self._outage is not None:
            self._ledger.reconcile()
            self._maintenance.after_outage()
        self._beat()
        self._listener = self._listener or self._engine.db.listener()
        return self._listener

    def _work(self, listener: Listener) -> None:
        self._is_woken = listener.woken() or self._is_woken
        if self._is_woken and not self._ledger:
            # An idle consumer claims first, because a new job waits for that. The claim reads the pauses itself.
            self._claimer.may_have_ready = True
        else:
            self._poll()
        if self._turn.run():
            self._worked_at = time.monotonic()
            if self._is_woken:
                time.sleep(_HANDS_OVER)
        if self._is_woken:
            self._claimer.catch_up(time.time())
            self._is_woken, self._poll_at = False, time.monotonic() + _POLL_EVERY
        if self._maintenance.work(ending=self._stops > 0):
            self._claimer.expect_rescued()

    def _appear(self) -> None:
        """Show other consumers that this one lives, under its present name; repeated if the database refuses."""
        self._is_registered = False
        self._heartbeat = Heartbeat(
            self._engine,
            self.name,
            queues=self._queues.names(),
            slots=self._slots,
            concurrency=self._concurrency,
            quiet=lambda: self._claimer.quiet,
        )
        self._heartbeat.register()
        self._is_registered = True
        if not self._has_started:
            self._has_started = True
            self._announce(consumer_started)
        self._ledger.open_journal(self._engine.db.runtime_dir(), self._slots + LONGEST)
        self._pool.assign(self.name, self._ledger.may_start)
        self._maintenance = Maintenance(
            self._engine,
            self._heartbeat,
            self._on_declared_dead,
            on_request=lambda: self.requests.answer(self.name),
            observe=lambda: self._observations.take(self.name),
        )

    def _on_declared_dead(self) -> None:
        """Go on as a new consumer: others have declared this one dead, and its jobs are theirs."""
        text = "consumer %s was taken for dead; its %d jobs are no longer its own"
        logger.error(text, self.name, len(self._ledger))
        self._pool.cancel(self._ledger.held())
        self._ledger.disown(self._pool.drain_queue(), ConsumerName.new().text)
        self._appear()

    def _beat(self) -> None:
        """Send a heartbeat if it is due, or if another consumer suspects that this one is dead."""
        if suspected := self._ledger.is_suspected:
            self._maintenance.after_outage()
        if self._maintenance.is_beat_due():
            suspected = self._ledger.renew_journal(self._engine.db.runtime_dir()) or suspected
        self._maintenance.beat()
        if suspected:
            self._ledger.clear_suspicion()

    def _poll(self) -> None:
        """Read what others have changed, if the listener has reported a write or the last poll is long ago."""
        now = time.monotonic()
        if self._is_woken or now >= self._poll_at:
            self._poll_at = now + _POLL_EVERY
            self._is_woken = False
            self._claimer.refresh(time.time())
            if self._ledger:
                self._pool.cancel(self._ledger.held(self._engine.jobs.to_cancel(self.name)))

    # Waiting and ending

    def _wait(self, listener: Listener) -> None:
        """Wait until there is something to do."""
        # Armed before the checks: from here on each outcome, call or signal wakes this thread.
        self._wakeup.armed = True
        now = time.monotonic()
        listens: Listener | None = None
        # With jobs in the pool's queue, only until the slots that they wait for prove to be stalled.
        stall_threshold = self._claimer.read_ahead.stall_threshold()
        timeout = stall_threshold if self._pool.waiting() else _POLL_EVERY
        timeout = min(timeout, self._maintenance.due(), self._enforce_at - now)
        busy = self._turn.has_writes()
        if self._stops:
            timeout = min(timeout, self._stop_by - now)
        elif self._turn.room():
            busy = busy or self._claimer.may_have_ready
            listens = listener
            if (due := self._claimer.next_due) is not None:
                timeout = min(timeout, due - time.time())
        if not busy and wait(self._wakeup, listens, timeout, now - self._worked_at):
            self._is_woken = True
        self._wakeup.armed = False

    def _is_over(self) -> bool:
        """Release the jobs that will not run here, and return whether to end."""
        self._end_without_threads()
        if self._stops or self._pool.threads_refused():
            self._release_waiting()
        elif self._turn.is_stalled():
            self._release_waiting(keep_slots=True)
        if self._turn.has_writes():
            return False
        if self._stops or self._claimer.is_spent:
            self.on_ending(len(self._ledger))
        if self._stops:
            if self._ledger and time.monotonic() >= self._stop_by:
                self._ledger.release_now(self._ledger.held())
                return True
            return not self._ledger
        return not self._ledger and (self._claimer.is_spent or (self._drain and self._is_drained()))

    def _is_drained(self) -> bool:
        """Return whether no job is left in the queue, in an outbox, or with a consumer that may be dead."""
        idle = self._claimer.is_idle(time.time()) and self._sweeper.first_pass_done.is_set()
        return idle and not self._maintenance.may_rescue()

    def _end_without_threads(self) -> None:
        """Claim no more once all threads are abandoned."""
        if self._pool.abandoned >= self._slots and self._claimer.max_jobs != 0:
            logger.error("%d threads are abandoned: their jobs do not stop; ending", self._slots)
            self.retire()
            if self._pool.loop_blocked:
                self.stop()

    def _release_waiting(self, *, keep_slots: bool = False) -> None:
        self._ledger.release_in_turn(self._pool.drain_queue(keep_slots=keep_slots))

    def _break_off(self, error: Exception) -> None:
        """Give the jobs back after an error that nothing expects: without that they would need a rescue."""
        text = "consumer %s ends by an error (%s: %s); it releases its jobs"
        logger.critical(text, self.name, type(error).__name__, error, exc_info=error)
        self._claimer.stopped = True
        try:
            self._release_waiting()
            self._turn.finish()
            if self._is_registered:
                self._heartbeat.deregister()
        except Exception:  # the same error again, or one of the database
            logger.exception("%d jobs are left for other consumers to rescue", len(self._ledger))

    # Outages

    def _end_outage(self) -> None:
        if self._outage is not None:
            self._outage.end()
            self._outage = None

    def _endure(self, error: DatabaseError | OSError) -> bool:
        """Pause after an error of the database or the system; return whether there is still time to try again."""
        outage = self._outage = self._outage or Outage(self._engine.db)
        self._call_queue.requeue(rolled_back=self._engine.db.classify(error) is not Refusal.LOST)
        self._pause(outage.fail(error), outage)
        outage.renew_session()
        if self._stops and time.monotonic() >= self._stop_by + _LAST_WAIT:
            logger.error("%d jobs are left for other consumers to rescue", len(self._ledger))
            return False
        return True

    def _pause(self, seconds: float, outage: Outage) -> None:
        """Wait without using the database, or until this consumer is stopped; enforce timeouts meanwhile."""
        until, stops = time.monotonic() + seconds, self._stops
        while (left := until - time.monotonic()) > 0 and stops == self._stops:
            self.on_round(outage.obstacle)
            self._wakeup.armed = True
            timeout = min(left, self._enforce_at - time.monotonic(), _POLL_EVERY)
            wait(self._wakeup, None, timeout, 0.0)
            self._wakeup.armed = False
            self._enforce_at = time.monotonic() + self._pool.enforce()
