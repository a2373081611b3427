"""Jobs and their failed attempts.

The rows are read through the ORM (admin, handles) and written by the statements in `djjp.engine`.
Every index of jobs is partial, on live states or on pipelines: what has finished costs an insert nothing.
"""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.db.models.lookups import GreaterThan

from djjp.ids import new_id


class State(models.TextChoices):
    """Where a job is in its life. `docs/internals.md` has the picture."""

    SCHEDULED = "scheduled"  # waits for its time
    BLOCKED = "blocked"  # waits for another job: of its pipeline, or under its limit
    READY = "ready"  # may be claimed
    RUNNING = "running"  # claimed by a consumer
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINISHED = (State.SUCCEEDED, State.FAILED, State.CANCELLED)
LIVE = (State.SCHEDULED, State.BLOCKED, State.READY, State.RUNNING)


class OnCrash(models.TextChoices):
    """What becomes of a running job whose consumer dies."""

    RETRY = "retry"
    FAIL = "fail"


class Flag:
    """What a claimed row needs beyond being run, bit by bit; a plain job's `flags` are 0 and cost nothing.

    Plain integers, for they are looked at for each job of a turn.
    """

    HAS_DEPENDENTS = 1  # others wait for it: its end is followed up
    TAKES_INPUT = 2  # what it is handed comes before its own arguments
    LIMITED = 4  # only so many of its key run at once
    RATE_LIMITED = 8  # only so many of its key start in a span of time
    UNIQUE = 16  # it has a unique key
    EXPIRES = 32  # it must start in time
    CANCELLED_BY_PARENT = 64  # it was cancelled because a job that it waited for did not succeed
    ON_FAILURE = 128  # it runs only when one of those that it waits for does not succeed
    UNTIL_START = 256  # its unique key is free once it starts
    THROTTLED = 512  # it was over its rate: its `run_after` is its place in the line
    DELAYS_CHILD = 1024  # one that waits for it is not to run before a time of its own

    #: What takes a longer statement to enqueue …
    CONSTRAINED = LIMITED | RATE_LIMITED | UNIQUE | EXPIRES
    #: … and what is looked at once more after the claim.
    NEEDS_ADMISSION = LIMITED | RATE_LIMITED | EXPIRES | UNTIL_START


class Job(models.Model):
    """One call of a registered job function, from enqueue to its end.

    Attributes:
        arguments: the call's arguments, as the codec's JSON text.
        result: what the function returned, as the codec's JSON text; null until it succeeded.
        attempts: how many executions were begun; a job given back unstarted does not count.
        rescues: how many executions ended with the death of their consumer.
        consumer: who runs it, or ran it last.
        on_crash: whether it runs again when its consumer dies.
        cancel_requested: that someone wants it to stop while it runs.
        reason: why it was cancelled, in words.
        progress_done: how far it has come, by its own count, …
        progress_total: … and of how much.
        flags: what it needs beyond being run: see `Flag`.
        pipeline: what it has in common with the other jobs of its pipeline; null for a job by itself.
        waits_for: how many jobs have yet to succeed before it may run, while it is blocked.
        unique_key: no other live job has it.
        limit_key: what its limit or rate is counted by.
        limit_max: how many of that key run at once, or start within …
        limit_per: … so many seconds; null for a limit.
        expires_at: when it is cancelled, if it has not started.
        input: why an `on_failure` job runs, as the codec's JSON text. What a step receives is not
            copied: it stands in its parents' rows.
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
            # Of jobs under a limit only: how many of a key run, and which of it wait, by their queues.
            models.Index(
                fields=["state", "limit_key", "queue", "-priority", "id"],
                condition=Q(limit_key__isnull=False)
                & Q(waits_for=0)
                # Alternatives, of which SQLite sees that each of them is enough; of a list it does not.
                & (Q(state="blocked") | Q(state="ready") | Q(state="running")),
                name="djjp_job_limit",
            ),
            # Of jobs under a rate: until when those that have not started yet are put off.
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
            # Of every state, but of the steps of pipelines only. With the id, for each version of a row is an
            # entry on PostgreSQL, and where most of them are equal an entry is dear.
            models.Index(
                fields=["pipeline", "id"],
                condition=Q(pipeline__isnull=False),
                name="djjp_job_pipeline",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} {self.id}"


class Attempt(models.Model):
    """One execution that failed: what was raised, where, and by which consumer it was run.

    All of it is text, cut to a bounded size, so that looking at a failure never runs its code.
    """

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="failures")
    number = models.PositiveIntegerField()
    consumer = models.CharField(max_length=100)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField()
    exception_class = models.CharField(max_length=200)
    message = models.TextField(blank=True)
    traceback = models.TextField(blank=True)

    class Meta:
        db_table = "djjp_attempt"

    def __str__(self) -> str:
        return f"attempt {self.number} of job {self.job_id}: {self.exception_class}"
