"""Queues of which there is something to remember; all others exist by being named."""

from __future__ import annotations

from django.db import models


class Queue(models.Model):
    """A queue that is paused.

    Attributes:
        paused_at: since when.
        paused_until: when it goes on by itself; null for not before it is resumed.
    """

    name = models.CharField(primary_key=True, max_length=100)
    paused_at = models.DateTimeField()
    paused_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "djjp_queue"

    def __str__(self) -> str:
        return self.name
