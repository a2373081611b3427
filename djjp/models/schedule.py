"""Schedules, and the slots that have had their job."""

from __future__ import annotations

from django.db import models


class CatchUp(models.TextChoices):
    """What becomes of slots that came while no consumer ran."""

    NONE = "none"  # they are left out
    ONCE = "once"  # one job for all of them
    ALL = "all"  # one job for each


class Source(models.TextChoices):
    """Where a schedule is written down."""

    CODE = "code"  # in the options of a @job; consumers write its row
    ADMIN = "admin"


class Schedule(models.Model):
    """When a registered job is to run by itself.

    Attributes:
        job: the name of the job to run.
        cron: an expression of five fields; "" for an interval.
        tz: the time zone of the expression; "" for an interval.
        every: the interval; null for a cron expression.
        arguments: those of the job, as the codec's JSON text.
        fired_until: seconds since the epoch; slots up to then are done with.
        last_occurrence: the last slot that had its job, in seconds since the epoch.
        last_job: that job.
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


class Occurrence(models.Model):
    """A slot of a schedule that has had its job: it gets no other one.

    Attributes:
        schedule: the schedule's id.
        occurs_at: seconds since the epoch.
    """

    pk = models.CompositePrimaryKey("schedule", "occurs_at")
    schedule = models.BigIntegerField()
    occurs_at = models.FloatField()

    class Meta:
        db_table = "djjp_occurrence"

    def __str__(self) -> str:
        return f"{self.occurs_at} of schedule {self.schedule}"
