"""Upkeep: what keeps the queue going while consumers come, go and die, and finished jobs pile up.

The verbs are the maintenance that each consumer does in its turn; none of them is a job.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from uuid import UUID

from djjp.engine.database import TABLE, epoch, moment
from djjp.engine.limits import Limits
from djjp.engine.pipelines import EDGES
from djjp.engine.records import ON_FAILURE, Peer, Progress
from djjp.models import Attempt, Consumer, Flag, Job, State

_CONSUMERS = Consumer._meta.db_table

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


# What waits for a job reads its result there: it stays for as long as they do.
_STILL_READ = f"""flags & {Flag.HAS_DEPENDENTS} <> 0 AND EXISTS (SELECT 1 FROM {EDGES} AS edge
JOIN {TABLE} AS child ON child.id = edge.child WHERE edge.parent = {TABLE}.id
AND edge.result_path <> '{ON_FAILURE}' AND NOT ({{gone}}))"""


class Upkeep(Limits):
    """Verbs of liveness, rescue and pruning."""

    # Consumers

    @abstractmethod
    def hold(self, consumer: str) -> bool:
        """Take, or keep, the lock that dies with this process; whether others can tell by it."""

    @abstractmethod
    def let_go(self, consumer: str) -> None:
        """Let go of the lock."""

    @abstractmethod
    def is_held(self, consumer: str) -> bool:
        """Whether a consumer's lock is held, by whomever."""

    @abstractmethod
    def notes(self) -> Path | None:
        """The folder for notes that the consumers of one machine leave to each other; None for nowhere."""

    def register(self, consumer: Consumer) -> None:
        """Write a consumer's row, or write it anew."""
        consumer.save(using=self.alias)

    def heartbeat(self, consumer: str, now: float, locked: bool) -> bool:
        """Say that a consumer lives; whether its row is still there, that is, whether nobody thinks it dead."""
        row = Consumer.objects.using(self.alias).filter(pk=consumer)
        return row.update(heartbeat_at=moment(now), locked=locked) > 0

    def unregister(self, consumer: str) -> None:
        """Remove a consumer's row."""
        Consumer.objects.using(self.alias).filter(pk=consumer).delete()

    def peers(self) -> list[Peer]:
        """All consumers that have a row, by name."""
        # Not by the ORM, which takes twice as long: a consumer at rest asks for little else.
        with self.connection.cursor() as cursor:
            cursor.execute(f"SELECT name, heartbeat_at, locked FROM {_CONSUMERS} ORDER BY name")
            rows = cursor.fetchall()
        return [Peer(name, self._seconds(at), bool(locked)) for name, at, locked in rows]

    def orphans(self) -> list[Peer]:
        """The consumers that running jobs name, and that have no row."""
        running = Job.objects.using(self.alias).filter(state=State.RUNNING).order_by()
        named = running.filter(consumer__isnull=False).values_list("consumer", flat=True)
        names = {str(name) for name in named.distinct()}
        known = set(Consumer.objects.using(self.alias).values_list("pk", flat=True))
        return [Peer(name, None, True) for name in sorted(names - known)]

    def held_by(self, consumer: str) -> dict[UUID, int]:
        """The attempts that a consumer runs, as the queue has it, by their jobs' ids."""
        running = Job.objects.using(self.alias).filter(state=State.RUNNING, consumer=consumer)
        return dict(running.values_list("pk", "attempts"))

    # Rescue

    def rescue(
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
        with self.turn():
            if not self._bury(peer):
                return None
            ids = set(self.held_by(peer.name))
            unbegun = ids - set(begun) if begun is not None else set()
            # One that lives after all may report of some at this very moment: those are not taken.
            returned = self._give_back(peer.name, unbegun, now)
            rescued, failed = self._rescue(peer.name, ids - unbegun, now, max_rescues)
            self.follow(ids)
            self.let_in(ids)
            if ids:
                self.announce()
        return returned + rescued, failed

    def _bury(self, peer: Peer) -> bool:
        """Remove the row of a dead consumer, unless it has moved."""
        row = Consumer.objects.using(self.alias).filter(pk=peer.name)
        if peer.heartbeat is None:
            return not row.exists()
        return row.filter(heartbeat_at=moment(peer.heartbeat)).delete()[0] > 0

    def _give_back(self, consumer: str, ids: Collection[UUID], now: float) -> int:
        if not ids:
            return 0
        with self.connection.cursor() as cursor:
            cursor.execute(
                _GIVE_BACK.format(ids=self._within("id")),
                [self._stamp(now), consumer, self._id_list(ids)],
            )
            count: int = cursor.rowcount
            return count

    def _rescue(
        self, consumer: str, ids: Collection[UUID], now: float, most: int
    ) -> tuple[int, int]:
        if not ids:
            return 0, 0
        rows = Job.objects.using(self.alias).in_bulk(ids, field_name="pk")
        stamp = self._stamp(now)
        with self.connection.cursor() as cursor:
            cursor.execute(
                _RESCUE.format(ids=self._within("id")),
                [most, most, stamp, most, most, consumer, self._id_list(ids)],
            )
            rescued = [(self._uuid(id), *rest) for id, *rest in cursor.fetchall()]
        failed = [row for row in rescued if row[1] == State.FAILED]
        Attempt.objects.using(self.alias).bulk_create(
            Attempt(
                job_id=id,
                number=attempts,
                consumer=consumer,
                started_at=rows[id].started_at or moment(now),
                finished_at=moment(now),
                exception_class="ConsumerDied",
                message=f"its consumer {consumer} died while it ran"
                + (f", after {rescues} rescues" if rescues else "")
                + (", and it must not run twice" if rows[id].on_crash == "fail" else ""),
            )
            for id, _, attempts, rescues in failed
        )
        return len(rescued), len(failed)

    # What running jobs say and are told

    def progress(self, consumer: str, reports: Sequence[Progress]) -> None:
        """Note how far running jobs have come."""
        for claimed, done, total in reports:
            Job.objects.using(self.alias).filter(
                pk=claimed.id, consumer=consumer, attempts=claimed.attempt, state=State.RUNNING
            ).update(progress_done=done, progress_total=total)

    def to_cancel(self, consumer: str) -> list[UUID]:
        """The running jobs of a consumer that someone wants to stop."""
        wanted = Job.objects.using(self.alias).filter(
            state=State.RUNNING, cancel_requested=True, consumer=consumer
        )
        return list(wanted.values_list("pk", flat=True))

    # Pruning

    def prune(
        self, states: Sequence[State], before: float, after: UUID | None, limit: int
    ) -> tuple[int, UUID | None]:
        """Delete finished jobs of these states that ended before a time, among the next `limit` rows.

        The rows are walked in the order of their ids, which is that of their creation: what ended long
        ago was made long ago, so no index of ends is needed, which each finish would have to feed.

        Args:
            after: where the walk has come to; None for its beginning.

        Returns:
            How many were deleted, and where the walk has come to; None when it has met a row that was
            made after `before`, or the last one.
        """
        rows = Job.objects.using(self.alias).order_by("pk")
        if after is not None:
            rows = rows.filter(pk__gt=after)
        last = rows.values_list("pk", "created_at")[limit - 1 : limit].first()
        if last is not None:
            rows = rows.filter(pk__lte=last[0])
        old = rows.filter(state__in=states, finished_at__lt=moment(before))
        ids = list(old.values_list("pk", flat=True)[:limit])
        count = self._delete_finished(ids, states, before) if ids else 0
        return count, None if last is None or epoch(last[1]) >= before else last[0]

    def _delete_finished(self, ids: list[UUID], states: Sequence[State], before: float) -> int:
        """Delete those of these jobs that are still finished: one may have been retried just now."""
        marks = ", ".join(["%s"] * len(states))
        still_read = _STILL_READ.format(gone=f"child.state IN ({marks}) AND child.finished_at < %s")
        ended, stamp = [state.value for state in states], self._stamp(before)
        with self.turn(), self.connection.cursor() as cursor:
            cursor.execute(
                f"DELETE FROM {TABLE} WHERE {self._within('id')} AND finished_at < %s"
                " AND state IN ('succeeded', 'failed', 'cancelled')"
                f" AND NOT ({still_read}) RETURNING id, pipeline",
                [self._id_list(ids), stamp, *ended, stamp],
            )
            rows = cursor.fetchall()
            gone = [self._uuid(id) for id, _ in rows]
            if steps := [self._uuid(id) for id, pipeline in rows if pipeline is not None]:
                self._delete_edges(steps)
            cursor.execute(
                f"DELETE FROM {Attempt._meta.db_table} WHERE {self._within('job_id')}",
                [self._id_list(gone)],
            )
        return len(gone)
