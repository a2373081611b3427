"""The outbox's table: jobs that are enqueued with the application's data and not yet in the queue."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class OutboxJob(models.Model):
    """One job, or one pipeline, on its way to the queue.

    Attributes:
        id: the id that it will have in the queue.
        job: the job, or all jobs of the pipeline, as text: see `serialization`.
        cancelled: whether it was cancelled here; it enters the queue nevertheless, and is cancelled there.
        problem: why it cannot be relayed. Such a row is set aside: sweeps skip it until a person decides.
    """

    id = models.UUIDField(primary_key=True, editable=False)
    job = models.TextField()
    created_at = models.DateTimeField()
    cancelled = models.BooleanField(default=False, db_default=False)
    problem = models.TextField(null=True, blank=True)

    class Meta:
        verbose_name = _("job of the outbox")
        verbose_name_plural = _("jobs of the outbox")
        db_table = "djjp_outbox"
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.id)
