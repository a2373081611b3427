"""The outbox's table: jobs that are enqueued with the application's data and not yet in the queue."""

from __future__ import annotations

from django.db import models


class OutboxJob(models.Model):
    """One job, or one pipeline, on its way to the queue.

    Attributes:
        id: the id that it will have in the queue.
        job: the job, or all jobs of the pipeline, as text: see `serialization`.
    """

    id = models.UUIDField(primary_key=True, editable=False)
    job = models.TextField()
    created_at = models.DateTimeField()

    class Meta:
        db_table = "djjp_outbox"

    def __str__(self) -> str:
        return str(self.id)
