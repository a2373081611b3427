"""Rescue: make the jobs of a dead consumer ready again, fail them, or release them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from djjp.durations import to_datetime
from djjp.engine.consumers import Consumers
from djjp.engine.database import Database
from djjp.engine.limits import Limits
from djjp.engine.pipelines import Pipelines
from djjp.engine.records import ClaimKey, Peer
from djjp.engine.rows import TABLE
from djjp.engine.totals import Totals
from djjp.models import Attempt, Consumer, OnCrash, State

_ATTEMPTS = Attempt._meta.db_table

_RESCUE = f"""UPDATE {TABLE} SET
state = CASE WHEN cancel_requested THEN 'cancelled'
             WHEN on_crash = 'fail' OR rescues >= %s THEN 'failed' ELSE 'ready' END,
finished_at = CASE WHEN cancel_requested OR on_crash = 'fail' OR rescues >= %s THEN %s END,
consumer = CASE WHEN cancel_requested OR on_crash = 'fail' OR rescues >= %s THEN consumer END,
rescues = rescues + CASE WHEN cancel_requested OR on_crash = 'fail' OR rescues >= %s THEN 0 ELSE 1 END
WHERE state = 'running' AND consumer = %s AND {{ids}} RETURNING queue, name, flags, state, id, rescues, on_crash"""

# The row is not read into memory: it can have large arguments, and values by hand that no driver can read.
_RECORD = f"""INSERT INTO {_ATTEMPTS}
(job_id, number, consumer, started_at, finished_at, exception_class, message, traceback)
SELECT id, coalesce(attempts, 0), %s, coalesce(started_at, %s), %s, 'ConsumerDied', %s, '' FROM {TABLE}
WHERE id = %s"""

_RELEASE = f"""UPDATE {TABLE} SET
state = CASE WHEN cancel_requested THEN 'cancelled' ELSE 'ready' END,
finished_at = CASE WHEN cancel_requested THEN %s END,
attempts = attempts - 1, started_at = NULL, consumer = NULL
WHERE state = 'running' AND consumer = %s AND {{ids}} RETURNING queue, name, flags, state"""


class Rescued(NamedTuple):
    """The numbers of the jobs of a dead consumer, by their end.

    Attributes:
        jobs: the number that were taken from it: rescued, failed, cancelled or, as they had not started, released.
        failed: the number that failed by its death.
        rescued: the number that had started and are ready again.
    """

    jobs: int
    failed: int
    rescued: int


class Rescue:
    """Rescue the jobs of dead consumers."""

    def __init__(
        self,
        db: Database,
        consumers: Consumers,
        pipelines: Pipelines,
        limits: Limits,
        totals: Totals,
    ) -> None:
        self._db = db
        self._totals = totals
        self._consumers = consumers
        self._pipelines = pipelines
        self._limits = limits

    def rescue_jobs(
        self,
        peer: Peer,
        now: float,
        *,
        max_rescues: int,
        started: Collection[ClaimKey] | None,
        only: Collection[UUID] | None = None,
    ) -> Rescued | None:
        """Make the jobs of a dead consumer ready again, or fail jobs that were rescued too often.

        Jobs that had not started are released as if they had never been claimed.

        Args:
            peer: the consumer as it was read; when it has sent a heartbeat since, nothing is done.
            max_rescues: the number of times that a job can be rescued before it fails.
            started: the claims whose jobs had started; None when unknown, which counts all as started.
            only: the jobs to rescue, where not all of them.

        Returns:
            Their numbers; None when nothing was done.
        """
        with self._db.transaction():
            if not self._deregister_dead(peer):
                return None
            running = self._consumers.running_jobs(peer.name)
            if only is not None:
                running = {key: n for key, n in running.items() if key[0] in only}
            ids = {id for id, _ in running}
            begun = running.keys() if started is None else set(started)
            not_started = {id for id, _ in running.keys() - begun}
            # If the consumer lives after all, it can finish some of them at this moment: those are skipped.
            released = self._release(peer.name, not_started, now)
            rescued = self._rescue(peer.name, ids - not_started, now, max_rescues)
            self._pipelines.resolve_dependents(ids)
            self._limits.unblock(ids)
            if ids:
                self._db.notify()
        return rescued._replace(jobs=rescued.jobs + released)

    def _deregister_dead(self, peer: Peer) -> bool:
        """Delete the row of a dead consumer, and return False if the row has changed since it was read."""
        row = Consumer.objects.using(self._db.alias).filter(pk=peer.name)
        if peer.heartbeat is None:
            return not row.exists()
        return row.filter(heartbeat_at=to_datetime(peer.heartbeat)).delete()[0] > 0

    def _release(self, consumer: str, ids: Collection[UUID], now: float) -> int:
        if not ids:
            return 0
        with self._db.connection.cursor() as cursor:
            cursor.execute(
                _RELEASE.format(ids=self._db.in_ids("id")),
                [self._db.to_param(now), consumer, self._db.id_list(ids)],
            )
            rows = cursor.fetchall()
        self._count(rows, "cancelled")
        return len(rows)

    def _rescue(
        self, consumer: str, ids: Collection[UUID], now: float, max_rescues: int
    ) -> Rescued:
        if not ids:
            return Rescued(0, 0, 0)
        stamp = self._db.to_param(now)
        with self._db.connection.cursor() as cursor:
            cursor.execute(
                _RESCUE.format(ids=self._db.in_ids("id")),
                [*[max_rescues] * 2, stamp, *[max_rescues] * 2, consumer, self._db.id_list(ids)],
            )
            rescued = cursor.fetchall()
            failed = [row for row in rescued if row[3] == State.FAILED]
            for *_, key, rescues, on_crash in failed:
                message = _message(consumer, rescues, on_crash)
                cursor.execute(_RECORD, [consumer, stamp, stamp, message, key])
        self._count(rescued, "cancelled", "failed", "rescued")
        ready = [row for row in rescued if row[3] == State.READY]
        return Rescued(len(rescued), len(failed), len(ready))

    def _count(self, rows: Sequence[Sequence[Any]], *kinds: str) -> None:
        ends = [(*row[:3], "rescued" if row[3] == State.READY else row[3]) for row in rows]
        for kind in kinds:
            self._totals.count(kind, [row[:3] for row in ends if row[3] == kind])


def _message(consumer: str, rescues: int, on_crash: str) -> str:
    return (
        f"its consumer {consumer} died while it ran"
        + (f", after {rescues} rescues" if rescues else "")
        + (", and it must not run twice" if on_crash == OnCrash.FAIL else "")
    )
