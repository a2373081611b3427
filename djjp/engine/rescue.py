"""Rescue: the jobs of a dead consumer become ready again, fail, or are given back."""

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

_GIVE_BACK = f"""UPDATE {TABLE} SET
state = CASE WHEN cancel_requested THEN 'cancelled' ELSE 'ready' END,
finished_at = CASE WHEN cancel_requested THEN %s END,
attempts = attempts - 1, started_at = NULL, consumer = NULL
WHERE state = 'running' AND consumer = %s AND {{ids}}"""


class Rescue:
    """Take the jobs of dead consumers."""

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
        """Take the jobs of a dead consumer: ready again, or failed where that was once too often.

        What had not begun is given back as if it had never been claimed.

        Args:
            peer: as it was seen; when it has said since that it lives, nothing is done.
            max_rescues: how often a job may be rescued.
            begun: the jobs that it had begun to run; None where nobody knows, for all.

        Returns:
            How many jobs were taken, and how many of them have failed by it; None when nothing was done.
        """
        with self._db.transaction():
            if not self._deregister_dead(peer):
                return None
            ids = set(self._consumers.running_jobs(peer.name))
            unbegun = ids - set(begun) if begun is not None else set()
            # One that lives after all may report of some at this very moment: those are not taken.
            returned = self._give_back(peer.name, unbegun, now)
            rescued, failed = self._rescue(peer.name, ids - unbegun, now, max_rescues)
            self._pipelines.resolve_dependents(ids)
            self._limits.unblock(ids)
            if ids:
                self._db.notify()
        return returned + rescued, failed

    def _deregister_dead(self, peer: Peer) -> bool:
        """Remove the row of a dead consumer, unless it has moved."""
        row = Consumer.objects.using(self._db.alias).filter(pk=peer.name)
        if peer.heartbeat is None:
            return not row.exists()
        return row.filter(heartbeat_at=to_datetime(peer.heartbeat)).delete()[0] > 0

    def _give_back(self, consumer: str, ids: Collection[UUID], now: float) -> int:
        if not ids:
            return 0
        with self._db.connection.cursor() as cursor:
            cursor.execute(
                _GIVE_BACK.format(ids=self._db.in_ids("id")),
                [self._db.to_param(now), consumer, self._db.id_list(ids)],
            )
            count: int = cursor.rowcount
            return count

    def _rescue(
        self, consumer: str, ids: Collection[UUID], now: float, most: int
    ) -> tuple[int, int]:
        if not ids:
            return 0, 0
        rows = Job.objects.using(self._db.alias).in_bulk(ids, field_name="pk")
        stamp = self._db.to_param(now)
        with self._db.connection.cursor() as cursor:
            cursor.execute(
                _RESCUE.format(ids=self._db.in_ids("id")),
                [most, most, stamp, most, most, consumer, self._db.id_list(ids)],
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
