"""Receipts of jobs that were relayed from outboxes."""

from __future__ import annotations

from django.db import models


class Relayed(models.Model):
    """A receipt for a job from an outbox, so that it is not relayed again, even after it was pruned.

    The row is kept until no transaction can see the job's row in the outbox any more.
    """

    id = models.UUIDField(primary_key=True, editable=False)
    relayed_at = models.DateTimeField()

    class Meta:
        db_table = "djjp_relayed"

    def __str__(self) -> str:
        return str(self.id)
