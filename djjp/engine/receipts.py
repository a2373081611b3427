"""Receipts: the ids of the jobs that were relayed from an outbox."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from djjp.durations import to_datetime
from djjp.engine.database import Database
from djjp.models import Relayed

RELAYED = Relayed._meta.db_table


class Receipts:
    """Read and delete receipts; `Jobs.relay` writes them."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def relayed(self, before: float, after: UUID | None, limit: int) -> list[UUID]:
        """Return the first `limit` ids after `after` that were relayed before a time, in order."""
        rows = Relayed.objects.using(self._db.alias).filter(relayed_at__lt=to_datetime(before))
        if after is not None:
            rows = rows.filter(pk__gt=after)
        return list(rows.order_by("pk").values_list("pk", flat=True)[:limit])

    def delete(self, ids: Collection[UUID]) -> None:
        """Delete the receipts with these ids."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(
                f"DELETE FROM {RELAYED} WHERE {self._db.in_ids('id')}", [self._db.id_list(ids)]
            )
