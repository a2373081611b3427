"""Jobs.

The admin and handles read the rows through the ORM; the statements in `djjp.engine` write them.
Every index is partial, on live states, failed jobs or pipelines, so that finished jobs do not slow down an insert.
"""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import F, Q
from django.db.models.lookups import GreaterThan
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from djjp import call_options
from djjp.bounds import one_line
from djjp.ids import new_id
from djjp.models.context import ContextField
from djjp.models.instant import InstantField


class State(models.TextChoices):
    """The states of a job. `docs/internals.md` has a diagram."""

    SCHEDULED = "scheduled", _("Scheduled")  # waits for its time
    # It waits for other jobs of its pipeline, or for a permit of its limit.
    BLOCKED = "blocked", _("Blocked")
    READY = "ready", _("Ready")  # can be claimed
    RUNNING = "running", _("Running")  # claimed by a consumer
    SUCCEEDED = "succeeded", _("Succeeded")
    FAILED = "failed", _("Failed")
    CANCELLED = "cancelled", _("Cancelled")


FINISHED = (State.SUCCEEDED, State.FAILED, State.CANCELLED)
LIVE = (State.SCHEDULED, State.BLOCKED, State.READY, State.RUNNING)


class OnCrash(models.TextChoices):
    """The fate of a running job whose consumer dies."""

    RETRY = "retry", pgettext_lazy("when its consumer dies", "Retry")
    FAIL = "fail", pgettext_lazy("when its consumer dies", "Fail")


class Flag:
    """The needs of a job beyond being run, as bits of `Job.flags`. A plain job has 0, which costs nothing.

    They are plain integers, because a turn tests them for each job.
    """

    HAS_DEPENDENTS = 1  # other jobs depend on it: resolve them when it ends
    TAKES_INPUT = 2  # the results of its parents come before its own arguments
    LIMITED = 4  # the number of running jobs with its key is limited
    RATE_LIMITED = 8  # the number of starts with its key in a period is limited
    UNIQUE = 16  # it has a unique key
    EXPIRES = 32  # it is cancelled unless it starts before `expires_at`
    CANCELLED_BY_PARENT = 64  # it was cancelled because a parent did not succeed
    ON_FAILURE = 128  # it runs only when one of its parents does not succeed
    UNTIL_START = 256  # its unique key becomes free when it starts
    THROTTLED = 512  # it was over its rate: its `run_after` orders it among the throttled jobs
    DELAYS_CHILD = 1024  # one of its dependents has a `run_after` of its own
    OPTIONS = 2048  # its call has options of its own for the execution
    TAGGED = 4096  # it has tags
    STAND_IN = (
        8192  # in an outbox only: it is dropped if its unique key is held when it enters the queue
    )
    FOLLOWS = 16384  # it is due by the end of its parents, not by its enqueue
    EXPANDS = 32768  # it becomes one job for each item of its input, and runs no function
    COLLECTS = 65536  # its result is the list of its parents' results, and it runs no function
    UNLISTED = 131072  # it stands for nothing that a user has enqueued: no list and no count has it
    TOLERATES = 262144  # the reason takes the place of a missing result of its members
    CONTEXT = 524288  # instruments have added to its context

    #: The flags of the two jobs that an `expand()` has besides its members.
    EXPANSION = EXPANDS | COLLECTS
    #: The flags that need a longer statement to enqueue …
    CONSTRAINED = LIMITED | RATE_LIMITED | UNIQUE | EXPIRES | OPTIONS | TAGGED | CONTEXT
    #: … and those that admission checks after the claim.
    NEEDS_ADMISSION = LIMITED | RATE_LIMITED | EXPIRES | UNTIL_START


class Job(models.Model):
    """One call of a registered job function, from enqueue to its end.

    Attributes:
        arguments: the call's arguments, as the codec's JSON text.
        result: what the function returned, as the codec's JSON text; null until it succeeded.
        attempts: the number of executions started; a job that was released unstarted does not count.
        rescues: the number of executions that ended with the death of their consumer.
        claim: the number of claims made of it, which only grows: see `djjp.engine.records.Claimed`.
        consumer: the name of the consumer that runs it, or ran it last.
        on_crash: what happens when its consumer dies: see `OnCrash`.
        cancel_requested: whether a cancel was requested while it runs.
        reason: why it was cancelled, as text.
        progress_done: the progress it last reported, in a unit of its own.
        progress_total: the total in the same unit.
        flags: bits of `Flag`.
        pipeline: the id of its pipeline; null for a job outside any pipeline.
        waits_for: while it is blocked, the number of parents that must still succeed before it can run.
        unique_key: no other live job has it.
        limit_key: the key by which its limit or rate counts jobs.
        limit_max: the number of jobs with that key that can run at once, or start within `limit_per`.
        limit_per: the period of a rate in seconds; null for a limit.
        expires_at: when it is cancelled if it has not started by then.
        options: the options of one call, and the tags, as JSON text; null without any: see
            `djjp.call_options`.
        context: what instruments have added when it was enqueued, a dict: see `djjp.instruments`.
        input: why an `on_failure` job runs, as the codec's JSON text. The input of other steps is not
            copied: it is in the rows of their parents.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    name = models.CharField(max_length=200)
    queue = models.CharField(max_length=100, default="default")
    priority = models.SmallIntegerField(default=0)
    state = models.CharField(max_length=10, choices=State.choices, default=State.READY)
    attempts = models.PositiveIntegerField(default=0)
    rescues = models.PositiveIntegerField(default=0)
    claim = models.PositiveIntegerField(default=0, db_default=0)
    run_after = InstantField(null=True, blank=True)
    created_at = InstantField()
    started_at = InstantField(null=True, blank=True)
    finished_at = InstantField(null=True, blank=True)
    consumer = models.CharField(max_length=100, null=True, blank=True)
    arguments = models.TextField()
    result = models.TextField(null=True, blank=True)
    on_crash = models.CharField(
        max_length=5, choices=OnCrash.choices, default=OnCrash.RETRY, db_default=OnCrash.RETRY
    )
    cancel_requested = models.BooleanField(default=False, db_default=False)
    reason = models.TextField(null=True, blank=True)
    progress_done = models.BigIntegerField(null=True, blank=True)
    progress_total = models.BigIntegerField(null=True, blank=True)
    flags = models.IntegerField(default=0, db_default=0)
    pipeline = models.UUIDField(null=True, blank=True)
    waits_for = models.IntegerField(default=0, db_default=0)
    input = models.TextField(null=True, blank=True)
    unique_key = models.CharField(max_length=200, null=True, blank=True)
    limit_key = models.CharField(max_length=200, null=True, blank=True)
    limit_max = models.PositiveIntegerField(null=True, blank=True)
    limit_per = models.FloatField(null=True, blank=True)
    expires_at = InstantField(null=True, blank=True)
    options = models.TextField(null=True, blank=True)
    context = ContextField()

    class Meta:
        verbose_name = _("job")
        verbose_name_plural = _("jobs")
        db_table = "djjp_job"
        default_permissions = ("view", "delete")
        permissions = [
            ("view_arguments", "Can see arguments, results and errors of jobs"),
            ("operate_job", "Can retry, cancel, run, move and enqueue jobs, and control consumers"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["unique_key"],
                condition=Q(unique_key__isnull=False)
                & Q(state__in=["scheduled", "blocked", "ready", "running"]),
                name="djjp_job_unique_key",
            ),
        ]
        indexes = [
            # The global order, for a consumer that serves every queue …
            models.Index(
                fields=["-priority", "id"],
                condition=Q(state="ready", rescues=0),
                name="djjp_job_ready",
            ),
            # … and the order within one queue, for a consumer that serves some.
            models.Index(
                fields=["queue", "-priority", "id"],
                condition=Q(state="ready", rescues=0),
                name="djjp_job_ready_queue",
            ),
            # Rows by hand that are in none of the others, so that they are found and fail: no row of djjp's own.
            models.Index(
                fields=["id"],
                condition=(Q(rescues__lt=0) | Q(rescues__isnull=True)) & Q(state="ready"),
                name="djjp_job_misfit",
            ),
            # Suspects, which a claim of other jobs never reads: those with the fewest rescues come first.
            models.Index(
                fields=["queue", "-priority", "rescues", "id"],
                condition=Q(state="ready", rescues__gt=0),
                name="djjp_job_suspect",
            ),
            models.Index(
                fields=["run_after"], condition=Q(state="scheduled"), name="djjp_job_scheduled"
            ),
            models.Index(
                fields=["consumer"], condition=Q(state="running"), name="djjp_job_running"
            ),
            models.Index(
                fields=["consumer"],
                condition=Q(state="running", cancel_requested=True),
                name="djjp_job_cancelling",
            ),
            # Jobs under a limit only: the number of running jobs of a key, and its blocked jobs, by queue.
            models.Index(
                fields=["state", "limit_key", "queue", "-priority", "id"],
                condition=Q(limit_key__isnull=False)
                & Q(waits_for=0)
                # An OR: SQLite proves that each alternative implies the condition, but not so for an IN list.
                & (Q(state="blocked") | Q(state="ready") | Q(state="running")),
                name="djjp_job_limit",
            ),
            # Jobs under a rate: the times to which those that have not started yet are throttled.
            models.Index(
                fields=["limit_key", "run_after"],
                condition=Q(limit_key__isnull=False)
                & Q(state="scheduled", attempts=0)
                & Q(GreaterThan(F("flags").bitand(Flag.THROTTLED), 0)),
                name="djjp_job_throttled",
            ),
            models.Index(
                fields=["expires_at"],
                condition=Q(expires_at__isnull=False)
                & Q(state__in=["scheduled", "blocked", "ready"]),
                name="djjp_job_expires",
            ),
            # Failed jobs, for lists of them: a job that succeeds has no entry.
            models.Index(fields=["id"], condition=Q(state="failed"), name="djjp_job_failed"),
            # Scheduled and blocked jobs, for lists of them. No other statement has the condition on `claim`, which
            # is always true, and so none can be planned with this index in place of its own.
            models.Index(
                fields=["state", "id"],
                condition=(Q(state="scheduled") | Q(state="blocked")) & Q(claim__gte=0),
                name="djjp_job_waiting",
            ),
            # All states, but jobs of pipelines only. With the id, because on PostgreSQL each version of a row has
            # an entry, and an entry is expensive where most entries are equal.
            models.Index(
                fields=["pipeline", "id"],
                condition=Q(pipeline__isnull=False),
                name="djjp_job_pipeline",
            ),
        ]

    def __str__(self) -> str:
        return one_line(f"{self.name} {self.id}")

    @property
    def call_options(self) -> dict[str, Any]:
        """The options of its call for the execution."""
        return call_options.of_execution(self.options)

    @property
    def tags(self) -> list[str]:
        """Its tags, in the order in which they were given."""
        return call_options.tags_of(self.options)


def listed(jobs: models.QuerySet[Job]) -> models.QuerySet[Job]:
    """Return the jobs among these that lists and counts have: those without `Flag.UNLISTED`."""
    return jobs.alias(unlisted=F("flags").bitand(Flag.UNLISTED)).filter(unlisted=0)
