"""Jobs.

The admin and handles read the rows through the ORM; the statements in `djjp.engine` write them.
Every index is partial, on live states or on pipelines, so that finished jobs do not slow down an insert.
"""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.db.models.lookups import GreaterThan

from djjp.ids import new_id


class State(models.TextChoices):
    """The states of a job. `docs/internals.md` has a diagram."""

    SCHEDULED = "scheduled"  # waits for its time
    BLOCKED = "blocked"  # waits for other jobs of its pipeline, or for a permit of its limit
    READY = "ready"  # can be claimed
    RUNNING = "running"  # claimed by a consumer
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINISHED = (State.SUCCEEDED, State.FAILED, State.CANCELLED)
LIVE = (State.SCHEDULED, State.BLOCKED, State.READY, State.RUNNING)


class OnCrash(models.TextChoices):
    """The fate of a running job whose consumer dies."""

    RETRY = "retry"
    FAIL = "fail"


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

    #: The flags that need a longer statement to enqueue …
    CONSTRAINED = LIMITED | RATE_LIMITED | UNIQUE | EXPIRES
    #: … and those that admission checks after the claim.
    NEEDS_ADMISSION = LIMITED | RATE_LIMITED | EXPIRES | UNTIL_START


class Job(models.Model):
    """One call of a registered job function, from enqueue to its end.

    Attributes:
        arguments: the call's arguments, as the codec's JSON text.
        result: what the function returned, as the codec's JSON text; null until it succeeded.
        attempts: the number of executions started; a job that was released unstarted does not count.
        rescues: the number of executions that ended with the death of their consumer.
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
    run_after = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
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
    flags = models.SmallIntegerField(default=0, db_default=0)
    pipeline = models.UUIDField(null=True, blank=True)
    waits_for = models.IntegerField(default=0, db_default=0)
    input = models.TextField(null=True, blank=True)
    unique_key = models.CharField(max_length=200, null=True, blank=True)
    limit_key = models.CharField(max_length=200, null=True, blank=True)
    limit_max = models.PositiveIntegerField(null=True, blank=True)
    limit_per = models.FloatField(null=True, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "djjp_job"
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
                fields=["-priority", "id"], condition=Q(state="ready"), name="djjp_job_ready"
            ),
            # … and the order within one queue, for a consumer that serves some.
            models.Index(
                fields=["queue", "-priority", "id"],
                condition=Q(state="ready"),
                name="djjp_job_ready_queue",
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
            # All states, but jobs of pipelines only. With the id, because on PostgreSQL each version of a row has
            # an entry, and an entry is expensive where most entries are equal.
            models.Index(
                fields=["pipeline", "id"],
                condition=Q(pipeline__isnull=False),
                name="djjp_job_pipeline",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} {self.id}"
