"""Totals of the ends of jobs: exact figures, from the transactions that ended the jobs."""

from __future__ import annotations

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.translation import gettext_lazy as _


class Span(models.TextChoices):
    """The length of the period of a total; those of all queues and names together have spans of their own."""

    MINUTE = "minute", _("Minute")
    HOUR = "hour", _("Hour")
    DAY = "day", _("Day")
    EVER = "ever", _("Ever")
    ALL_MINUTE = "all_m", _("All, minute")
    ALL_HOUR = "all_h", _("All, hour")


class Total(models.Model):
    """The ends of the jobs of one name in one queue within one period.

    Each end is in one row of a minute, an hour and a day, and in the row "ever". A minute and an hour also have a
    row for all queues and names, which has "" as both. See `djjp.engine.history`.

    Attributes:
        starts_at: when the period began, in seconds since the epoch; 0 for "ever".
        failed: the jobs that failed for good.
        retried: the attempts that failed, or asked for it, and were followed by another one.
        rescued: the attempts that ended with the death of their consumer and were followed by another one.
        late: the outcomes that the fence refused.
        wait_seconds: the sum of the waiting times of the jobs in `waits`.
        run_seconds: the sum of the running times of the attempts in `runs`.
        waits: the histogram of waiting times, as JSON text: see `djjp.engine.sums`.
        runs: the histogram of running times.
    """

    pk = models.CompositePrimaryKey("span", "starts_at", "queue", "name")
    span = models.CharField(max_length=6, choices=Span.choices)
    starts_at = models.BigIntegerField()
    queue = models.CharField(max_length=100)
    name = models.CharField(max_length=200)
    succeeded = models.BigIntegerField(default=0)
    failed = models.BigIntegerField(default=0)
    retried = models.BigIntegerField(default=0)
    cancelled = models.BigIntegerField(default=0)
    rescued = models.BigIntegerField(default=0)
    late = models.BigIntegerField(default=0)
    wait_seconds = models.FloatField(default=0)
    run_seconds = models.FloatField(default=0)
    waits = models.TextField(default="{}")
    runs = models.TextField(default="{}")

    class Meta:
        verbose_name = _("total")
        verbose_name_plural = _("totals")
        db_table = "djjp_total"
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.name} in {self.queue}, {self.span} {self.starts_at}"


class EntryId(models.BigAutoField):  # type: ignore[type-arg]  # the stubs' parameters are not there at runtime
    """Ascending ids, which can come again once their rows are deleted: on SQLite that saves a table of them."""

    def db_type_suffix(self, connection: BaseDatabaseWrapper) -> str | None:
        suffix = super().db_type_suffix(connection)
        return None if suffix == "AUTOINCREMENT" else suffix


class TotalEntry(models.Model):
    """The additions of one transaction to the totals, until maintenance adds them: a row of its own takes no lock.

    Attributes:
        minute: the start of its minute, in seconds since the epoch.
        figures: the figures by queue and name, as JSON text: see `djjp.engine.totals`.
    """

    id = EntryId(primary_key=True)
    minute = models.BigIntegerField()
    figures = models.TextField()

    class Meta:
        verbose_name = _("total entry")
        verbose_name_plural = _("total entries")
        db_table = "djjp_total_entry"
        default_permissions = ()

    def __str__(self) -> str:
        return f"entry {self.pk} of minute {self.minute}"
