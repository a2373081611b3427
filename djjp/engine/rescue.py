"""Rescue: make the jobs of a dead consumer ready again, fail them, or release them."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from djjp.durations import to_datetime
from djjp.engine.consumers import Consumers
from djjp.engine.database import TABLE, Database
from djjp.engine.limits import Limits
from djjp.engine.pipelines import Pipelines
from djjp.engine.records import Peer
from djjp.models import Attempt, Consumer, Job, State

_RESCUE = f"""UPDATE {TABLE} SET
state = CASE WHEN cancel_requested THEN 'cancelled'
             WHEN on_crash = 'fail' OR rescues >= %s THEN 'failed' ELSE 'ready' END,
finished_at = CASE WHEN cancel_requested OR on_crash = 'fail' OR rescues >= %s THEN %s END,
consumer = CASE WHEN cancel_requested OR on_crash = 'fail' OR rescues >= %s THEN consumer END,
rescues = rescues + CASE WHEN cancel_requested OR on_crash = 'fail' OR rescues >= %s THEN 0 ELSE 1 END
WHERE state = 'running' AND consumer = %s AND {{ids}} RETURNING id, state, attempts, rescues"""

_RELEASE = f"""UPDATE {TABLE} SET
state = CASE WHEN cancel_requested THEN 'cancelled' ELSE 'ready' END,
finished_at = CASE WHEN cancel_requested THEN %s END,
attempts = attempts - 1, started_at = NULL, consumer = NULL
WHERE state = 'running' AND consumer = %s AND {{ids}}"""


class Rescue:
    """Rescue the jobs of dead consumers."""

    def __init__(
        self, db: Database, consumers: Consumers, pipelines: Pipelines, limits: Limits
    ) -> None:
        self._db = db
        self._consumers = consumers
        self._pipelines = pipelines
        self._limits = limits

    def rescue_jobs(
        self, peer: Peer, now: float, *, max_rescues: int, begun: Collection[UUID] | None
    ) -> tuple[int, int] | None:
        """Make the jobs of a dead consumer ready again, or fail jobs that were rescued too often.

        Jobs that had not started are released as if they had never been claimed.

        Args:
            peer: the consumer as it was read; when it has sent a heartbeat since, nothing is done.
            max_rescues: how often a job can be rescued before it fails.
            begun: the jobs that the consumer had started; None when unknown, which counts all as started.

        Returns:
            The number of jobs that were taken from the consumer, and how many of them failed; None when
            nothing was done.
        """
        with self._db.transaction():
            if not self._deregister_dead(peer):
                return None
            ids = set(self._consumers.running_jobs(peer.name))
            not_started = ids - set(begun) if begun is not None else set()
            # If the consumer lives after all, it can finish some of them at this moment: those are skipped.
            released = self._release(peer.name, not_started, now)
            rescued, failed = self._rescue(peer.name, ids - not_started, now, max_rescues)
            self._pipelines.resolve_dependents(ids)
            self._limits.unblock(ids)
            if ids:
                self._db.notify()
        return released + rescued, failed

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
            count: int = cursor.rowcount
            return count

    def _rescue(
        self, consumer: str, ids: Collection[UUID], now: float, max_rescues: int
    ) -> tuple[int, int]:
        if not ids:
            return 0, 0
        rows = Job.objects.using(self._db.alias).in_bulk(ids, field_name="pk")
        stamp = self._db.to_param(now)
        with self._db.connection.cursor() as cursor:
            cursor.execute(
                _RESCUE.format(ids=self._db.in_ids("id")),
                [*[max_rescues] * 2, stamp, *[max_rescues] * 2, consumer, self._db.id_list(ids)],
            )
            rescued = [(self._db.to_uuid(id), *rest) for id, *rest in cursor.fetchall()]
        failed = [row for row in rescued if row[1] == State.FAILED]
        Attempt.objects.using(self._db.alias).bulk_create(
            Attempt(
                job_id=id,
                number=attempts,
                consumer=consumer,
                started_at=rows[id].started_at or to_datetime(now),
                finished_at=to_datetime(now),
                exception_class="ConsumerDied",
                message=f"its consumer {consumer} died while it ran"
                + (f", after {rescues} rescues" if rescues else "")
                + (", and it must not run twice" if rows[id].on_crash == "fail" else ""),
            )
            for id, _, attempts, rescues in failed
        )
        return len(rescued), len(failed)
