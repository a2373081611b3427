"""A consumer's life: it appears, takes its turns, rests, and ends; or loses the database and finds it again."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from django.db import Error as DatabaseError

from djjp import conf
from djjp.consumer.liveness import Presence, new_name
from djjp.consumer.maintenance import Maintenance
from djjp.consumer.read_ahead import LONGEST
from djjp.consumer.serving import Serving, parse
from djjp.consumer.start_journal import Begun
from djjp.consumer.turn import Turns
from djjp.consumer.wakeup import wait
from djjp.engine import Claimed, Listener, current
from djjp.models import Flag
from djjp.outbox import table
from djjp.outbox.sweeper import Sweeper

logger = logging.getLogger("djjp.consumer")

# After a turn that the database refused: seconds until the next, doubled up to the last.
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 5.0
# Seconds after which a consumer looks at the queue though nobody woke it.
_LOOK_EVERY = 1.0
# Seconds that a consumer which has to end gives a database that is away.
_LAST_WORD = 3.0


class Consumer(Turns):
    """Claims jobs and runs them until it is told to stop.

    Args:
        limit: how many jobs run at the same time.
        queues: the queues to serve: names or patterns such as `report.*`, the first of them first, or
            with weights such as `mail:3`; None for all.
        exclude_queues: names or patterns of queues not to serve.
        drain: stop when no job is left to run.
        max_jobs: stop after this many executions.
        shutdown_timeout: seconds that running jobs get to end once the consumer was told to stop.
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
        super().__init__(
            limit,
            Serving(None if queues is None else parse(queues), exclude_queues),
            max_jobs,
            concurrency=concurrency or conf.current().concurrency,
        )
        # Kept to the end of the process: Linux takes some 10 ms to let go of what hears a file's writes.
        self._listener: Listener | None = None
        self._presence: Presence
        self._maintenance: Maintenance
        self._drain = drain
        self._shutdown_timeout = shutdown_timeout
        self._sweeper = Sweeper(self._call_queue.call, table.outboxes())
        self._look_at = 0.0  # when to look though nobody rang
        self._stop_by = 0.0
        self._enforce_at = 0.0

    # What other threads call

    def stop(self) -> None:
        """Claim no more and let the running jobs end; a second call gives them back at once.

        Safe to call from a signal handler.
        """
        self._stops += 1
        self._stop_by = 0.0 if self._stops > 1 else time.monotonic() + self._shutdown_timeout
        self._wakeup.set()

    def retire(self) -> None:
        """Claim no more and end once the running jobs have, however long they take."""
        self._max_jobs = 0
        self._wakeup.set()

    @property
    def abandoned_threads(self) -> int:
        """Number of threads given up, each with a job that cannot be stopped."""
        return self._pool.abandoned

    # The coordinator

    def run(self) -> bool:
        """Work until stopped; returns whether each job that was begun ended here."""
        self._engine = current()
        self._sweeper.start()
        pause = _FIRST_PAUSE
        try:
            while True:
                self._enforce_at = time.monotonic() + self._pool.enforce()
                try:
                    if self._listener is None:
                        self._appear()
                        self._listener = self._engine.db.listener()
                    elif pause > _FIRST_PAUSE:
                        self._reconcile()
                    if doubted := self._begun.is_doubted():
                        self._maintenance.cut_off()
                    self._maintenance.beat()
                    if doubted:
                        self._begun.go_on()
                    self._look(self._listener)
                    self._turn()
                    if self._maintenance.work(ending=self._stops > 0):
                        self._may_have_ready = True
                    if self._over():
                        self._presence.end()
                        break
                    pause = _FIRST_PAUSE
                    self._rest(self._listener)
                except DatabaseError as error:
                    logger.warning(
                        "the queue's database refused (%s); again in %.1f s",
                        " ".join(str(error).split()),
                        pause,
                    )
                    self._call_queue.requeue()
                    if not self._recover(pause):
                        logger.error("%d jobs are left to be rescued", len(self._held))  # noqa: TRY400  (why was just said)
                        return False
                    pause = min(2 * pause, _LAST_PAUSE)
            self._begun.close()
            return not self._held
        finally:
            self._call_queue.close()
            self._sweeper.stop()
            self._pool.close()
            self._wakeup.close()

    def _appear(self) -> None:
        """Show the others that this consumer lives, under its present name."""
        self._presence = Presence(
            self._engine, self.name, self._serving.names(), self._limit, self._concurrency
        )
        self._presence.begin()
        self._begun = Begun(self._engine.db.runtime_dir(), self.name, self._limit + LONGEST)
        self._pool.assign(self.name, self._may_begin)
        self._maintenance = Maintenance(self._engine, self._presence, self._lost)

    def _lost(self) -> None:
        """Others have taken this consumer for dead, and its jobs are theirs: go on as a new one."""
        logger.error(
            "consumer %s was taken for dead; its %d jobs are no longer its own",
            self.name,
            len(self._held),
        )
        waiting = self._pool.drain_queue()
        self._pool.cancel(self._held.values())
        self._taken.update(set(self._held.values()).difference(waiting))
        self._held.clear()
        if waiting:
            # Some may still be under its name: a turn that was frozen before its commit comes after the rescue.
            self._release(waiting)
        self._engine.consumers.release_lock(self.name)
        self._begun.close()
        self.name = new_name()
        self._appear()

    def _reconcile(self) -> None:
        """After an outage, when nobody knows whether the last commit took place: see what is ours.

        What the queue says that this consumer runs, and it does not, is given back; what it holds and
        the queue does not is dropped. An outcome is written anew behind the fence.
        """
        running = self._engine.consumers.running_jobs(self.name)
        strange = [
            Claimed(id, "", "", attempt, 0, Flag.HAS_DEPENDENTS)  # for all that is known here
            for id, attempt in running.items()
            if id not in self._held
        ]
        if strange:
            self._release(strange)
        self._maintenance.cut_off()

    def _look(self, listener: Listener) -> None:
        """Ask whether somebody wrote to the queue; if so, or if it has been a while, look into it."""
        now = time.monotonic()
        if listener.woken() or now >= self._look_at:
            self._look_at = now + _LOOK_EVERY
            self._due = self._engine.jobs.next_due()
            self._may_have_ready = True
            self._pauses(self._engine.queues.paused(time.time()))
            if self._held:
                unwanted = self._engine.jobs.to_cancel(self.name)
                self._pool.cancel(self._held[id] for id in unwanted if id in self._held)

    # Waiting and ending

    def _rest(self, listener: Listener) -> None:
        """Wait for whatever comes first, unless there is something to do."""
        # Awaited before anything is looked at: whatever comes from here on rings.
        self._wakeup.armed = True
        now = time.monotonic()
        hears: Listener | None = None
        # With jobs in line, only until it shows that the slots ahead of them are stuck.
        timeout = self._read_ahead.overdue() if self._pool.waiting() else _LOOK_EVERY
        timeout = min(timeout, self._maintenance.due(), self._enforce_at - now)
        busy = bool(self._outcomes or self._call_queue or self._late)
        if self._stops:
            timeout = min(timeout, self._stop_by - now)
        elif self._room():
            busy = busy or self._may_have_ready
            hears = listener
            if self._due is not None:
                timeout = min(timeout, self._due - time.time())
        if not busy and wait(self._wakeup, hears, timeout, now - self._worked_at):
            self._look_at = 0.0
        self._wakeup.armed = False

    def _over(self) -> bool:
        """Whether to end, after giving back what this consumer will not run."""
        if self._pool.abandoned >= self._limit and self._max_jobs != 0:
            logger.error("%d threads are lost to jobs that cannot be stopped; ending", self._limit)
            self.retire()
            if self._pool.loop_blocked:
                self.stop()
        if self._stops or self._pool.stalled(self._read_ahead.overdue()) == self._limit:
            self._late.extend(self._pool.drain_queue())
        if self._outcomes or self._call_queue or self._late:
            return False
        if self._stops:
            if self._held and time.monotonic() >= self._stop_by:
                self._release(list(self._held.values()))
                return True
            return not self._held
        if self._held:
            return False
        if self._max_jobs is not None and self.executed >= self._max_jobs:
            return True
        due = self._due is not None and self._due <= time.time()
        quiet = not self._may_have_ready and not due and self._sweeper.looked.is_set()
        return self._drain and quiet

    def _recover(self, pause: float) -> bool:
        """Let the database be for a while; whether there is still time to wait for it."""
        connection = self._engine.db.connection
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
        until, stops = time.monotonic() + pause, self._stops
        while (left := until - time.monotonic()) > 0 and stops == self._stops:
            self._wakeup.armed = True
            wait(self._wakeup, None, min(left, self._enforce_at - time.monotonic()), 0.0)
            self._wakeup.armed = False
            self._enforce_at = time.monotonic() + self._pool.enforce()
        return not self._stops or time.monotonic() < self._stop_by + _LAST_WORD
