"""Maintenance: the chores that each consumer does for the queue beside its jobs, a little at a time.

It sends heartbeats, rescues the jobs of dead consumers, fires schedules, works on operations, tidies and prunes.
The chores are due by the clock and not when the queue is quiet, so they continue under constant load. None of them
is a job, because a job could wait behind the fault that it should repair.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from functools import partial

from djjp import conf, logs
from djjp.consumer.bookkeeping import Bookkeeping
from djjp.consumer.chores import Chores
from djjp.consumer.failure_detector import FailureDetector
from djjp.consumer.heartbeat import Heartbeat
from djjp.consumer.incidents import IncidentSearch, beside
from djjp.consumer.outage import longest_reconnect
from djjp.consumer.pruner import PRUNE_ROWS, Pruner, SteadyClock
from djjp.consumer.rescue import rescue
from djjp.consumer.scheduler import Scheduler
from djjp.durations import seconds
from djjp.engine import Engine, Failure
from djjp.engine.consumers import beat_every
from djjp.engine.incidents import Found
from djjp.monitoring import operation_steps

logger = logging.getLogger("djjp.consumer")

#: Seconds between two searches for dead consumers.
DETECT_EVERY = 0.4
#: Seconds between two searches for expired jobs and for jobs that are blocked though a permit is free, and
#: between two steps while there are more.
TIDY_EVERY, TIDY_STEP = 1.0, 0.05
#: Seconds between two searches for jobs that cannot run because of a value in their rows, or because of a time
#: that a clock wrote while it was ahead.
REPAIR_EVERY = 5.0
#: The number of jobs that expire in one step, and of counted starts that are deleted.
TIDY_ROWS = 500
#: Seconds between two steps while there is something to prune, and between two walks.
PRUNE_STEP, PRUNE_EVERY = 0.05, 60.0


class Maintenance:
    """The chores of one consumer, each with its own time.

    Args:
        on_declared_dead: called when others have declared this consumer dead: its jobs are no longer its own.
        on_request: called when this consumer's row has a request.
        observe: returns the incidents that this consumer has noticed itself.
    """

    def __init__(
        self,
        engine: Engine,
        heartbeat: Heartbeat,
        on_declared_dead: Callable[[], None],
        *,
        on_request: Callable[[], None] = lambda: None,
        observe: Callable[[], list[Found]] = list,
    ) -> None:
        settings = conf.current()
        heartbeat_limit = seconds("heartbeat_limit", settings.heartbeat_limit)
        frozen_limit = None
        if settings.frozen_limit is not None:
            frozen_limit = seconds("frozen_limit", settings.frozen_limit)
        self._engine = engine
        self._chores = Chores(engine)
        self._heartbeat = heartbeat
        self._on_declared_dead = on_declared_dead
        self._on_request = on_request
        reconnect = longest_reconnect(engine.db)
        self._detector = FailureDetector(heartbeat_limit, frozen_limit, reconnect=reconnect)
        self._scheduler = Scheduler(engine)
        self._bookkeeping = Bookkeeping(engine, self._chores, self._leads)
        self._incidents = IncidentSearch(
            engine,
            observe,
            leads=self._leads,
            refused=lambda: self._scheduler.refused,
            reconnect=reconnect,
        )
        self._pruner = Pruner(clock=SteadyClock())
        self._beat_every = beat_every(settings)
        # The registration was the first heartbeat.
        self._beat_at = time.monotonic() + self._beat_every
        self._operations = operation_steps.Worker(heartbeat.name)
        self._detect_at = 0.0
        self._repair_at = 0.0
        self._tidy_at = 0.0
        self._tidied_key: str | None = None  # where the search for stranded jobs continues
        # Where the searches for times of the future continue.
        self._put_right_due, self._put_right_key = 0.0, ""
        # At random, so that consumers that were started together do not prune together.
        self._prune_at = time.monotonic() + random.uniform(0.1, 1) * PRUNE_EVERY / 10  # noqa: S311  (no secret)

    def due(self) -> float:
        """Return the seconds until the next chore is due."""
        times = [self._beat_at, self._detect_at, self._tidy_at, self._repair_at, self._prune_at]
        times += [self._incidents.due_at, self._operations.due_at, self._bookkeeping.due_at()]
        chore = min(times)
        return min(chore - time.monotonic(), self._scheduler.due())

    def may_rescue(self) -> bool:
        """Return whether a consumer holds jobs that may have to be rescued soon, because it may be dead."""
        running_jobs = self._engine.consumers.running_jobs
        return any(running_jobs(name) for name in self._detector.in_doubt())

    def after_outage(self) -> None:
        """Send a heartbeat at once, and declare no consumer dead for a while: the database was away."""
        self._beat_at = 0.0
        self._detector.pause()
        self._incidents.pause()

    def is_beat_due(self) -> bool:
        """Return whether `beat` sends a heartbeat."""
        return time.monotonic() >= self._beat_at

    def beat(self) -> None:
        """Send a heartbeat, if one is due.

        It comes before a turn, because a consumer that was frozen and declared dead must not claim under a
        name that no other consumer watches any more.
        """
        now = time.monotonic()
        if now >= self._beat_at:
            self._beat_at = now + self._beat_every
            if not self._heartbeat.beat():
                self._on_declared_dead()

    def work(self, *, ending: bool) -> bool:
        """Do the other chores that are due; return whether jobs may have become ready.

        Args:
            ending: whether this consumer is about to end; then it starts no chore that can wait.
        """
        now, ready = time.monotonic(), False
        if now >= self._detect_at:
            ready = self._rescue(now)
        if now >= self._tidy_at:
            ready = self._tidy(now) or ready
        if now >= self._repair_at:
            self._repair_at = now + REPAIR_EVERY
            self._chores.do("fail jobs that cannot run", self._fail_misfits)
            ready = bool(self._chores.do("put times right", self._put_right)) or ready
            repair = partial(self._engine.consumers.repair_heartbeats, time.time())
            self._chores.do("repair heartbeats", repair)
        if now >= self._prune_at:
            more = not ending and self._chores.do("prune", self._prune)
            self._prune_at = now + (PRUNE_STEP if more else PRUNE_EVERY)
        if now >= self._incidents.due_at:
            self._chores.do("detect incidents", self._incidents.work)
        self._bookkeeping.work()
        if ending:
            self._scheduler.stop()
            self._operations.stop()
        return self._make_ready(now) or ready

    def _make_ready(self, now: float) -> bool:
        """Work on an operation and fire schedules, if they are due; return whether jobs may have become ready."""
        ready = False
        if now >= self._operations.due_at:
            work = partial(self._operations.work, self._engine)
            ready = bool(self._chores.do("operations", work))
        if self._scheduler.due() <= 0:
            fired = self._chores.do("schedules", lambda: self._scheduler.work(time.time()))
            ready = fired or ready
        return ready

    def finish(self) -> None:
        """Do the last chore of a consumer that has no jobs any more."""
        self._bookkeeping.finish()

    def _leads(self) -> bool:
        """Return whether this consumer does what one of them should do."""
        return self._detector.leads(self._heartbeat.name)

    def _prune(self) -> bool:
        more = self._pruner.step(self._engine)
        if not more:  # once in a walk
            operation_steps.prune(self._engine)
            more = self._engine.idempotency.prune(time.time(), PRUNE_ROWS)
        return more

    def _fail_misfits(self) -> None:
        """Fail the jobs that no verb takes up, because of a value in their rows."""
        for key, state, reason in self._engine.repair.misfits(TIDY_ROWS):
            failure = Failure("builtins.ValueError", reason, "")
            fail = partial(self._engine.repair.fail, key, state, failure, time.time())
            if self._chores.do(f"fail job {key}", fail):
                logger.error("job %s has failed: %s", key, reason, extra=logs.of_id(key))

    def _put_right(self) -> bool:
        """Put right what a clock wrote while it was ahead; return whether jobs are due earlier."""
        engine = self._engine
        retries, due = engine.clocks.put_right_retries(self._put_right_due, TIDY_ROWS)
        rates, key = engine.rates.put_right(self._put_right_key)
        self._put_right_due, self._put_right_key = due or 0.0, key or ""
        if retries:
            logger.warning(
                "%d retries had been scheduled by a clock that was ahead; their backoff begins now",
                retries,
            )
        for rate in rates:
            logger.warning(
                "jobs under the rate %r waited for longer than it asks, by a clock that was ahead or behind"
                " cancelled jobs; they are due now",
                rate,
            )
        for queue in engine.clocks.put_right_pauses():
            logger.warning(
                "queue %r had been paused by a clock that was ahead; its pause begins now", queue
            )
        return bool(retries or rates)

    def _rescue(self, now: float) -> bool:
        """Rescue the jobs of dead consumers; return whether jobs were made ready."""
        self._detect_at, ready = now + DETECT_EVERY, False
        name = self._heartbeat.name
        dead = self._chores.do(
            "find dead consumers", lambda: self._detector.find_dead(self._engine, name)
        )
        if self._detector.is_requested:
            self._chores.do("answer a request", self._on_request)
        for peer in dead or ():
            rescued = self._chores.do(
                f"rescue the jobs of {peer.name}", partial(rescue, self._engine, peer, beside)
            )
            ready = ready or (rescued is not None and rescued.jobs > rescued.failed)
        self._detect_at = min(self._detect_at, time.monotonic() + self._detector.due())
        return ready

    def _tidy(self, now: float) -> bool:
        """Cancel expired jobs, unblock jobs for which a permit is free, and delete old counted starts.

        Returns:
            Whether jobs were unblocked.
        """
        engine, do = self._engine, self._chores.do
        expired = do("expire jobs", lambda: engine.expiry.expire(time.time(), TIDY_ROWS))
        after = self._tidied_key or ""
        unblocked = do("unblock jobs", lambda: engine.limits.unblock_stranded(after))
        count, self._tidied_key = unblocked or (0, None)
        deleted = do("prune counted starts", lambda: engine.rates.prune(TIDY_ROWS))
        more = TIDY_ROWS in (expired, deleted) or self._tidied_key is not None
        self._tidy_at = now + (TIDY_STEP if more else TIDY_EVERY)
        return count > 0
