"""Queues: which have something ready, and which are paused."""

from __future__ import annotations

from djjp.claims.common import TABLE, OnDatabase, epoch, moment
from djjp.models import Queue

_READY = f"FROM {TABLE} WHERE state = 'ready'"

# From one queue to the next, each a step into the index, however many jobs they have.
_WITH_READY = f"""WITH RECURSIVE found(queue) AS (SELECT min(queue) {_READY}
UNION ALL SELECT (SELECT min(queue) {_READY} AND queue > found.queue) FROM found
WHERE found.queue IS NOT NULL) SELECT queue FROM found WHERE queue IS NOT NULL"""


class Queues(OnDatabase):
    """Verbs of queues."""

    def queues_with_ready(self) -> list[str]:
        """The names of the queues that have ready jobs, in order."""
        with self.connection.cursor() as cursor:
            cursor.execute(_WITH_READY)
            return [name for (name,) in cursor.fetchall()]

    def paused(self, now: float) -> frozenset[str]:
        """The names of the queues that are paused now."""
        return frozenset(
            name
            for name, until in Queue.objects.using(self.alias).values_list("pk", "paused_until")
            if until is None or epoch(until) > now
        )

    def pause(self, name: str, now: float, until: float | None) -> None:
        """Have a queue's jobs wait.

        Args:
            until: when the queue goes on by itself; None for not before it is resumed.
        """
        ends = None if until is None else moment(until)
        with self.turn():
            Queue.objects.using(self.alias).update_or_create(
                pk=name, defaults={"paused_at": moment(now), "paused_until": ends}
            )
            self.announce()

    def resume(self, name: str) -> bool:
        """Have a queue go on; whether it was paused."""
        with self.turn():
            count, _ = Queue.objects.using(self.alias).filter(pk=name).delete()
            self.announce()
        return count > 0
