"""What the queue remembers of jobs that came from an outbox."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from uuid import UUID

from djjp.engine.database import OnDatabase, moment
from djjp.models import Relayed

RELAYED = Relayed._meta.db_table


class Relays(OnDatabase):
    """Verbs on `Relayed` rows; `relay`, which writes them, stands with the other ways to enqueue."""

    @abstractmethod
    def _note_relayed(self, ids: Sequence[UUID], now: float) -> set[UUID]:
        """Write the rows that are not there; returns their ids. One that another transaction has written
        and not committed is waited for."""

    def relayed(self, before: float, after: UUID | None, limit: int) -> list[UUID]:
        """The first ids behind one that were relayed before a time, in order."""
        rows = Relayed.objects.using(self.alias).filter(relayed_at__lt=moment(before))
        if after is not None:
            rows = rows.filter(pk__gt=after)
        return list(rows.order_by("pk").values_list("pk", flat=True)[:limit])

    def forget_relayed(self, ids: Collection[UUID]) -> None:
        """Delete the rows with these ids."""
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"DELETE FROM {RELAYED} WHERE {self._within('id')}", [self._id_list(ids)]
            )
