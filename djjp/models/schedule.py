"""Schedules: when registered jobs run automatically."""

from __future__ import annotations

from django.db import models


class CatchUp(models.TextChoices):
    """How occurrences are handled that fell due while no consumer ran."""

    NONE = "none"  # skip them
    ONCE = "once"  # one job for all of them
    ALL = "all"  # one job for each


class Source(models.TextChoices):
    """The origin of a schedule: the code or the admin."""

    CODE = "code"  # in the options of a @job; consumers write its row
    ADMIN = "admin"


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
    """

    name = models.CharField(max_length=200)
    job = models.CharField(max_length=200)
    source = models.CharField(max_length=5, choices=Source.choices, default=Source.ADMIN)
    cron = models.CharField(max_length=200, blank=True)
    tz = models.CharField("time zone", max_length=64, blank=True)
    every = models.DurationField(null=True, blank=True)
    arguments = models.TextField()
    catch_up = models.CharField(max_length=4, choices=CatchUp.choices, default=CatchUp.ONCE)
    enabled = models.BooleanField(default=True)
    fired_until = models.FloatField()
    last_occurrence = models.FloatField(null=True, blank=True)
    last_job = models.UUIDField(null=True, blank=True)

    class Meta:
        db_table = "djjp_schedule"
        constraints = [
            models.UniqueConstraint(fields=["source", "name"], name="djjp_schedule_name")
        ]

    def __str__(self) -> str:
        return self.name
