"""Occurrences of schedules that have their job."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class Occurrence(models.Model):
    """An occurrence of a schedule that already has its job, so that it gets no second one.

    Attributes:
        schedule: the schedule's id.
        occurs_at: its time, in seconds since the epoch.
    """

    pk = models.CompositePrimaryKey("schedule", "occurs_at")
    schedule = models.BigIntegerField()
    occurs_at = models.FloatField()

    class Meta:
        verbose_name = _("occurrence")
        verbose_name_plural = _("occurrences")
        db_table = "djjp_occurrence"
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.occurs_at} of schedule {self.schedule}"
