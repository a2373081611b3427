"""Splitting: take a refused turn again in parts, until what the database refuses is found and ended.

A turn is one transaction of many jobs. An error that comes from one of them, from its row, its outcome or a call
of its code, is the same whenever the whole is tried again. So after a refusal that is not the connection's, each
part is a transaction of its own, and a part that is refused is halved. What is refused alone is the culprit:

* an outcome is written as a failure with the reason; if that is refused too, it is set aside with one log line;
* a call gets the error;
* a job that cannot be promoted or claimed fails with the reason;
* an outcome whose row another transaction has locked waits for a later turn.

The next turn is a whole one again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from django.db import Error as DatabaseError

from djjp import logs
from djjp.consumer import job_log
from djjp.consumer.batch import Batch
from djjp.consumer.call_queue import CallQueue
from djjp.consumer.claiming import Claimer
from djjp.consumer.failures import described
from djjp.consumer.ledger import Ledger
from djjp.engine import Claimed, Engine, Failure, Key, Outcome, Progress, Refusal
from djjp.models import State

logger = logging.getLogger("djjp.consumer")

T = TypeVar("T")


class Take(Protocol):
    """Commits a part of a turn."""

    def __call__(
        self,
        batch: Batch,
        now: float,
        *,
        calls: int = 0,
        claim: Callable[[float], list[Claimed]] | None = None,
    ) -> None: ...


# The number of locks that one turn waits for: then the database as a whole is locked, and the consumer pauses.
_MOST_LOCKS = 5
# The number of due jobs that are promoted at once.
_PROMOTED = 200


class Splitter:
    """One turn in parts.

    Args:
        take: `Turn.take`.
        room: `Turn.room`.
    """

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        claimer: Claimer,
        call_queue: CallQueue,
        take: Take,
        room: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._claimer = claimer
        self._call_queue = call_queue
        self._take = take
        self._room = room
        self._locks = 0

    def run(self, error: Exception) -> None:
        """Take the turn that this error has ended."""
        if self._engine.db.classify(error) is Refusal.LOCKED:
            logger.info("a turn waited for a lock (%s); its parts are written one by one", error)
        elif not self._claimer.refused:
            logger.warning(
                "a turn was refused (%s); its parts are written one by one", _line(error)
            )
        self._ledger.deferred.be_wary()
        batch = self._ledger.batch()
        self._each(batch.progress, self._write_progress, self._drop_progress)
        self._each(batch.reported, self._write_outcomes, self._refuse_outcome)
        self._each(batch.releases, self._write_releases, self._refuse_release)
        for _ in range(len(self._call_queue)):
            self._call()
        now = time.time()
        if self._claimer.is_due(now):
            due = self._engine.repair.due_keys(now, _PROMOTED)
            self._each(due, self._promote, lambda key, why: self._fail(key, State.SCHEDULED, why))
            self._claimer.next_due = self._engine.jobs.next_due()
        if room := self._room():
            ready = self._ready(room, now)
            self._each(ready, self._claim, lambda key, why: self._fail(key, State.READY, why))

    def _each(
        self,
        items: Sequence[T],
        write: Callable[[Sequence[T]], None],
        refuse: Callable[[T, Exception], None],
    ) -> None:
        """Write these items; halve them where they are refused, and pass on those that are refused alone."""
        if not items:
            return
        try:
            write(items)
        except Exception as error:
            refusal = self._engine.db.classify(error)
            self._locks += refusal in (Refusal.LOCKED, Refusal.CONFLICT)
            if refusal.is_outage or self._locks > _MOST_LOCKS:
                raise
            if len(items) == 1:
                refuse(items[0], error)
                return
        else:
            return
        middle = len(items) // 2
        self._each(items[:middle], write, refuse)
        self._each(items[middle:], write, refuse)

    def _is_busy(self, error: Exception) -> bool:
        """Return whether other transactions are the reason, so that the same can succeed later."""
        return self._engine.db.classify(error) in (Refusal.LOCKED, Refusal.CONFLICT)

    # Outcomes

    def _write_progress(self, reports: Sequence[Progress]) -> None:
        self._take(Batch(progress=reports), time.time())

    def _drop_progress(self, report: Progress, error: Exception) -> None:
        logger.debug(
            "the progress of %s is refused: %s",
            report.claimed.id,
            error,
            extra=logs.of_job(report.claimed),
        )
        self._ledger.forget_progress([report])

    def _write_outcomes(self, outcomes: Sequence[Outcome]) -> None:
        self._take(self._ledger.part(outcomes), time.time())

    def _refuse_outcome(self, outcome: Outcome, error: Exception) -> None:
        if self._is_busy(error):
            self._defer(outcome, outcome.claimed)
            return
        now = time.time()
        failed = outcome._replace(
            state=State.FAILED,
            started_at=outcome.started_at if 0.0 <= outcome.started_at <= now else now,
            finished_at=now,
            result=None,
            run_after=None,
            reason=None,
            failure=_unwritable(outcome, error),
        )
        try:
            self._write_outcomes([failed])
            job_log.log_end(failed, 1)
        except Exception as again:
            if self._engine.db.classify(again).is_outage:
                raise
            if self._is_busy(again):
                self._defer(outcome, outcome.claimed)
            else:
                self._ledger.set_aside(outcome, again)

    def _write_releases(self, jobs: Sequence[Claimed]) -> None:
        self._take(Batch(releases=jobs), time.time())

    def _refuse_release(self, job: Claimed, error: Exception) -> None:
        if self._is_busy(error):
            self._defer(job, job)
        else:
            self._ledger.set_aside(job, error)

    def _defer(self, write: Outcome | Claimed, job: Claimed) -> None:
        """Have a write wait for the row of its job; where the whole table is locked, raise that error."""
        with self._engine.db.transaction():
            self._engine.repair.locked_elsewhere([job.id])
        self._ledger.defer(write)

    # Calls

    def _call(self) -> None:
        """Run the first call; an error of it is the caller's."""
        try:
            self._take(Batch(), time.time(), calls=1)
        except Exception as error:
            if self._engine.db.classify(error).is_outage:
                raise
            self._call_queue.fail(error, self._engine)

    # Jobs that wait

    def _promote(self, keys: Sequence[Key]) -> None:
        with self._engine.db.transaction():
            self._engine.repair.promote(keys)
        self._claimer.may_have_ready = True

    def _ready(self, room: int, now: float) -> list[Key]:
        """Return the jobs to claim, after a read of everything else that a claim reads.

        Raises:
            DatabaseError: such a read is refused: no job is to blame for that, and the consumer pauses.
        """
        try:
            self._claimer.refresh(now)
            # Read once more as the claim reads them.
            self._claimer.notice_pauses(self._engine.queues.paused(now))
            return self._claimer.ready_keys(room)
        except Exception as error:
            if isinstance(error, DatabaseError):
                raise
            raise DatabaseError(_line(error)) from error

    def _claim(self, keys: Sequence[Key]) -> None:
        self._take(Batch(), time.time(), claim=lambda now: self._claimer.claim_keys(keys, now))

    def _fail(self, key: Key, state: State, error: Exception) -> None:
        """Fail a job that cannot be promoted or claimed, with the reason."""
        if self._is_busy(error):
            return
        try:
            failed = self._engine.repair.fail(key, state, described(error), time.time())
        except Exception as again:
            if self._engine.db.classify(again).is_outage:
                raise
            if key not in self._claimer.refused:
                self._claimer.refused.add(key)
                logger.error(  # noqa: TRY400  (its traceback leads through djjp only)
                    "job %s can neither run nor be failed; it is left out: %s",
                    key,
                    _line(again),
                    extra=logs.of_id(key),
                )
        else:
            if failed:
                text = "job %s has failed, because its row is refused: %s"
                logger.error(text, key, _line(error), extra=logs.of_id(key))


def _unwritable(outcome: Outcome, error: Exception) -> Failure:
    """Return why the outcome was not written, and what it was if it was a failure."""
    failure = described(error)
    message = f"its outcome cannot be written: {failure.message}"
    if outcome.failure is not None:
        message += f"\nIt had failed with {outcome.failure.exception_class}: {outcome.failure.message[:1000]}"
    return Failure(failure.exception_class, message, "")


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:1000]
