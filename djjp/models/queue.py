"""Paused queues; all other queues have no row and exist as soon as a job names them."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from djjp.bounds import one_line
from djjp.models.instant import InstantField


class Queue(models.Model):
    """A queue that is paused.

    Attributes:
        paused_at: when it was paused.
        paused_until: when it resumes automatically; null if only a call of `resume()` resumes it.
    """

    name = models.CharField(primary_key=True, max_length=100)
    paused_at = InstantField()
    paused_until = InstantField(null=True, blank=True)

    class Meta:
        verbose_name = _("queue")
        verbose_name_plural = _("queues")
        db_table = "djjp_queue"
        default_permissions = ()
        permissions = [("pause_queue", "Can pause and resume queues")]

    def __str__(self) -> str:
        return one_line(self.name)
