"""Schedules: when registered jobs run automatically."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from djjp.bounds import one_line


class CatchUp(models.TextChoices):
    """How occurrences are handled that fell due while no consumer ran."""

    NONE = "none", pgettext_lazy("jobs for missed occurrences", "None")  # skip them
    ONCE = "once", pgettext_lazy("jobs for missed occurrences", "Once")  # one job for all of them
    ALL = "all", pgettext_lazy("jobs for missed occurrences", "All")  # one job for each


class Source(models.TextChoices):
    """The origin of a schedule: the code or the admin."""

    # In the options of a @job; consumers write its row.
    CODE = "code", pgettext_lazy("source of a schedule", "Code")
    ADMIN = "admin", pgettext_lazy("source of a schedule", "Admin")


class Schedule(models.Model):
    """The times at which a registered job runs automatically.

    Attributes:
        job: the name of the job to run.
        cron: an expression of five fields; "" for an interval.
        tz: the time zone of the expression; "" for an interval.
        every: the interval; null for a cron expression.
        arguments: the arguments of the job, as the codec's JSON text.
        fired_until: all occurrences up to this time are handled; seconds since the epoch.
        last_occurrence: the last occurrence that has its job, in seconds since the epoch.
        last_job: the id of that job.
        declared_at: when a consumer last declared a schedule of the code as the row has it, in seconds since the
            epoch; written while `replaced` is not empty.
        replaced: what was declared before, oldest first, each in a line, as `Schedules.sync` writes it. It is no
            `JSONField`, for which `manage.py check` would connect, and fail where the database is away.
    """

    name = models.CharField(_("name"), max_length=200)
    job = models.CharField(_("job"), max_length=200)
    source = models.CharField(
        _("source"), max_length=5, choices=Source.choices, default=Source.ADMIN
    )
    cron = models.CharField(_("cron"), max_length=200, blank=True)
    tz = models.CharField(_("time zone"), max_length=64, blank=True)
    every = models.DurationField(_("every"), null=True, blank=True)
    arguments = models.TextField(_("arguments"))
    catch_up = models.CharField(
        _("catch up"), max_length=4, choices=CatchUp.choices, default=CatchUp.ONCE
    )
    enabled = models.BooleanField(_("enabled"), default=True)
    fired_until = models.FloatField()
    last_occurrence = models.FloatField(null=True, blank=True)
    last_job = models.UUIDField(null=True, blank=True)
    declared_at = models.FloatField(default=0.0, editable=False)
    replaced = models.TextField(default="", editable=False)

    class Meta:
        verbose_name = _("schedule")
        verbose_name_plural = _("schedules")
        db_table = "djjp_schedule"
        constraints = [
            models.UniqueConstraint(fields=["source", "name"], name="djjp_schedule_name")
        ]

    def __str__(self) -> str:
        return one_line(self.name)
