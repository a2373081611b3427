"""Depths of queues: the number of live jobs in each, once a minute."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class Depth(models.Model):
    """The live jobs of one queue at the start of one minute; the queue "" marks a minute that is counted.

    Attributes:
        minute: in seconds since the epoch.
        ready: at most 100,000, which means "100,000 or more"; so are the other counts.
        oldest_wait: the seconds for which the job that was due first had waited; null without a ready job.
    """

    pk = models.CompositePrimaryKey("queue", "minute")
    queue = models.CharField(max_length=100)
    minute = models.BigIntegerField()
    ready = models.PositiveIntegerField(default=0)
    scheduled = models.PositiveIntegerField(default=0)
    blocked = models.PositiveIntegerField(default=0)
    running = models.PositiveIntegerField(default=0)
    oldest_wait = models.FloatField(null=True, blank=True)

    class Meta:
        verbose_name = _("depth")
        verbose_name_plural = _("depths")
        db_table = "djjp_depth"
        default_permissions = ()
        indexes = [models.Index(fields=["minute"], name="djjp_depth_minute")]

    def __str__(self) -> str:
        return f"{self.queue} at {self.minute}"
