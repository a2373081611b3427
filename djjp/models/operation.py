"""Operations: what is done to many jobs, in steps."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from djjp.bounds import one_line
from djjp.ids import new_id
from djjp.models.instant import InstantField


class Verb(models.TextChoices):
    """The verbs of operations."""

    RETRY = "retry", _("Retry")
    CANCEL = "cancel", _("Cancel")
    RUN = "run", _("Run")
    MOVE = "move", _("Move")
    PRIORITY = "priority", _("Priority")
    DELETE = "delete", _("Delete")


class Progression(models.TextChoices):
    """The states of an operation."""

    WAITING = "waiting", _("Waiting")  # no worker has begun
    RUNNING = "running", _("Running")
    STOPPED = "stopped", _("Stopped")  # on request, before its end
    DONE = "done", _("Done")
    FAILED = "failed", _("Failed")  # an error that comes again ended it


class Operation(models.Model):
    """One verb for all jobs that match a filter, or for a list of jobs. See `djjp.monitoring.operations`.

    Attributes:
        argument: the queue of "move", the number of "priority"; "" for other verbs.
        filter: the filter in its text form.
        ids: the ids of the jobs as a JSON list, in place of a filter; null with a filter.
        at: the id after which its next step begins, in the order of ids; null before the first step.
        until: the last id that it takes: jobs that are enqueued later are left out.
        matched: the number of jobs that were considered so far.
        done: the number of jobs to which it was done.
        skipped: the number of jobs that were left alone, by reason, as JSON text.
        requested_by: who asked for it: "admin:NAME", "cli:NAME" or "api:TOKEN".
        worker: the process that works on it, and `worked_at` the time of its last step, by the database's clock.
        error: why its last step failed; "" after a step that succeeded.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    verb = models.CharField(max_length=8, choices=Verb.choices)
    argument = models.CharField(max_length=100, blank=True)
    filter = models.TextField(blank=True)
    ids = models.TextField(null=True, blank=True)
    state = models.CharField(max_length=8, choices=Progression.choices, default=Progression.WAITING)
    at = models.UUIDField(null=True, blank=True)
    until = models.UUIDField()
    matched = models.PositiveBigIntegerField(default=0)
    done = models.PositiveBigIntegerField(default=0)
    skipped = models.TextField(default="{}")
    requested_by = models.CharField(max_length=200, blank=True)
    worker = models.CharField(max_length=100, blank=True)
    worked_at = InstantField(null=True, blank=True)
    created_at = InstantField()
    started_at = InstantField(null=True, blank=True)
    finished_at = InstantField(null=True, blank=True)
    error = models.TextField(blank=True)

    class Meta:
        verbose_name = _("operation")
        verbose_name_plural = _("operations")
        db_table = "djjp_operation"
        default_permissions = ()
        indexes = [
            models.Index(
                fields=["id"],
                condition=Q(state__in=["waiting", "running"]),
                name="djjp_operation_unfinished",
            )
        ]

    def __str__(self) -> str:
        return one_line(f"{self.verb} {self.id}")
