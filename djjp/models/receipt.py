"""What has come from outboxes."""

from __future__ import annotations

from django.db import models


class Relayed(models.Model):
    """A job that has come from an outbox: it is not taken from there again, also once it is pruned.

    The row is kept until nobody can have the job's row in the outbox in view any more.
    """

    id = models.UUIDField(primary_key=True, editable=False)
    relayed_at = models.DateTimeField()

    class Meta:
        db_table = "djjp_relayed"

    def __str__(self) -> str:
        return str(self.id)
