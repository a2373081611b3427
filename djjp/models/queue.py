"""Paused queues; all other queues have no row and exist as soon as a job names them."""

from __future__ import annotations

from django.db import models


class Queue(models.Model):
    """A queue that is paused.

    Attributes:
        paused_at: when it was paused.
        paused_until: when it resumes automatically; null if only a call of `resume()` resumes it.
    """

    name = models.CharField(primary_key=True, max_length=100)
    paused_at = models.DateTimeField()
    paused_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "djjp_queue"

    def __str__(self) -> str:
        return self.name
