"""The verbs of the queue: every statement that enqueues, claims and finishes jobs, by name.

Both databases implement this one list, and `tests/claims/test_contract.py` states what each verb promises.
What a database does in its own way stands in its own module; everything above speaks verbs only.

Two rules hold throughout:

* **The fence.** What a consumer reports of a job is written only while the row still says that this
  consumer runs this attempt of it. Whoever comes late changes nothing and is told so.
* **Times are seconds since the epoch** (`time.time()`), so that no time zone enters a statement.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

from django.conf import settings
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from djjp.claims.data import Claimed, Failure, NewJob, Outcome, Problem, Settled
from djjp.models import Attempt, Job, State


class Listener(Protocol):
    """Tells a waiting consumer that somebody wrote to the queue.

    To lose a wake-up is harmless: the consumer looks again after `interval()` in any case.
    """

    def fileno(self) -> int | None:
        """A descriptor that becomes readable on a wake-up, or None where there is only `woken()`."""

    def woken(self) -> bool:
        """Whether somebody wrote since the last call."""

    def interval(self, quiet: float) -> float:
        """Seconds until `woken()` should be asked again, after `quiet` seconds without any work."""

    def looks(self) -> float:
        """Seconds until the queue should be looked at though nobody woke the consumer."""


class Claims(ABC):
    """The queue on one database alias, by its verbs.

    An instance holds no state of the connection: it serves every thread, each on its own one.
    """

    #: Queues that one consumer can be told to serve by name.
    max_queues: int

    def __init__(self, alias: str) -> None:
        self.alias = alias

    @property
    def connection(self) -> BaseDatabaseWrapper:
        return connections[self.alias]

    # Enqueue

    @abstractmethod
    def enqueue(self, job: NewJob) -> None:
        """Write one job: one statement, and its own transaction unless one is open."""

    @abstractmethod
    def enqueue_many(self, jobs: Sequence[NewJob]) -> None:
        """Write many jobs, all or none of them."""

    # The consumer's turn

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One transaction in which a consumer finishes and claims."""
        with transaction.atomic(using=self.alias):
            yield

    @abstractmethod
    def claim(
        self,
        consumer: str,
        limit: int,
        now: float,
        *,
        queues: Sequence[str] | None = None,
        without: Sequence[str] = (),
    ) -> list[Claimed]:
        """Take up to `limit` ready jobs: higher priority first, then first in, first out.

        Like `finish`, it belongs inside `turn()`.

        Args:
            consumer: who takes them.
            queues: the queues to take from; None for all.
            without: names of jobs to pass over, because this consumer's code does not know them.
        """

    def finish(self, consumer: str, outcomes: Sequence[Outcome]) -> set[UUID]:
        """Write how attempts ended, as one batch; returns the ids that passed the fence.

        A failed attempt is kept as an `Attempt` row.
        """
        accepted = self._settle(consumer, [_settled(consumer, outcome) for outcome in outcomes])
        failures = [
            _attempt(consumer, outcome, outcome.failure)
            for outcome in outcomes
            if outcome.failure is not None and outcome.claimed.id in accepted
        ]
        if failures:
            Attempt.objects.using(self.alias).bulk_create(failures)
        return accepted

    def release(self, consumer: str, jobs: Iterable[Claimed]) -> set[UUID]:
        """Give claimed jobs back to ready, as if they had never been claimed."""
        rows = [
            Settled(job.id, job.attempt, State.READY, None, None, None, None, job.attempt - 1)
            for job in jobs
        ]
        accepted = self._settle(consumer, rows)
        if accepted:
            self.announce()
        return accepted

    @abstractmethod
    def _settle(self, consumer: str, rows: Sequence[Settled]) -> set[UUID]:
        """The fence: update each row that `consumer` still runs in that attempt; returns their ids."""

    def promote(self, now: float) -> int:
        """Make the scheduled jobs whose time has come ready; returns how many there were."""
        with self.connection.cursor() as cursor:
            cursor.execute(
                "UPDATE djjp_job SET state = 'ready' WHERE state = 'scheduled' AND run_after <= %s",
                [self._stamp(now)],
            )
            count: int = cursor.rowcount
            return count

    # Looking, without a write

    def next_due(self) -> float | None:
        """When the next scheduled job is due; None when none is scheduled."""
        with self.connection.cursor() as cursor:
            cursor.execute(f"SELECT min(run_after) FROM {TABLE} WHERE state = 'scheduled'")
            (value,) = cursor.fetchone()
            return None if value is None else self._seconds(value)

    @abstractmethod
    def has_ready(self, queues: Sequence[str] | None, without: Sequence[str]) -> bool:
        """Whether `claim` would find a job, asked without taking any lock."""

    # By people

    def retry(self, ids: Iterable[UUID]) -> int:
        """Make finished jobs ready again with fresh attempts; returns how many were.

        The errors of earlier attempts are kept.
        """
        with self.connection.cursor() as cursor:
            cursor.execute(
                "UPDATE djjp_job SET state = 'ready', attempts = 0, rescues = 0, run_after = NULL,"
                " started_at = NULL, finished_at = NULL, consumer = NULL, result = NULL"
                f" WHERE {self._id_in} AND state IN ('succeeded', 'failed', 'cancelled')",
                [self._id_list(ids)],
            )
            count: int = cursor.rowcount
        if count:
            self.announce()
        return count

    _id_in: str

    @abstractmethod
    def _id_list(self, ids: Iterable[UUID]) -> Any: ...

    # Wake-ups

    @abstractmethod
    def listener(self) -> Listener:
        """A listener on this thread's connection."""

    def announce(self) -> None:  # noqa: B027  (a database whose writes are seen by themselves needs none)
        """Wake idle consumers once the open transaction commits."""

    # Fitness

    def configuration_problems(self) -> Iterable[Problem]:
        """What is wrong with the alias' settings, told without connecting."""
        ours = self.connection.settings_dict
        for alias, theirs in connections.settings.items():
            same_engine = theirs.get("ENGINE") == ours["ENGINE"]
            if alias != self.alias and same_engine and self._place(theirs) == self._place(ours):
                yield Problem(
                    "E004",
                    f"the queue's alias {self.alias!r} and the alias {alias!r} are one database "
                    f"({ours['NAME']}), so the queue is not apart and its tables may never be made",
                    "Give the queue a file or a database of its own, "
                    "or set DJJP['db_name'] to the other alias.",
                )

    @abstractmethod
    def _place(self, settings: Mapping[str, Any]) -> Any:
        """What two aliases of one database have in common."""

    @abstractmethod
    def server_problems(self) -> Iterable[Problem]:
        """What is wrong with the database itself."""

    def _seconds(self, value: Any) -> float:
        """A time that this database gave back; a naive one is in the zone that Django keeps it in."""
        if timezone.is_naive(value):
            zone = self.connection.timezone or timezone.get_default_timezone()
            value = timezone.make_aware(value, zone)
        seconds: float = value.timestamp()
        return seconds

    def _stamp(self, seconds: float) -> Any:
        """A time in the form in which a parameter carries it to this database."""
        return datetime.fromtimestamp(seconds, UTC)


def _settled(consumer: str, outcome: Outcome) -> Settled:
    claimed = outcome.claimed
    return Settled(
        claimed.id,
        claimed.attempt,
        outcome.state,
        outcome.result,
        outcome.started_at,
        outcome.finished_at,
        consumer,
        claimed.attempt,
    )


def _attempt(consumer: str, outcome: Outcome, failure: Failure) -> Attempt:
    return Attempt(
        job_id=outcome.claimed.id,
        number=outcome.claimed.attempt,
        consumer=consumer,
        started_at=moment(outcome.started_at),
        finished_at=moment(outcome.finished_at),
        exception_class=failure.exception_class,
        message=failure.message,
        traceback=failure.traceback,
    )


def moment(seconds: float) -> datetime:
    """A time as the ORM wants it: aware where `USE_TZ` is on, local where it is off."""
    aware = datetime.fromtimestamp(seconds, UTC)
    return aware if settings.USE_TZ else timezone.make_naive(aware)


#: The table and columns an insert names, in the order of `NewJob`; the rest have constants.
INSERT_COLUMNS = (
    "id, name, queue, priority, state, run_after, created_at, arguments, attempts, rescues"
)
TABLE = Job._meta.db_table
