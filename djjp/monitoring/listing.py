"""Listing: the facts about jobs that a list shows besides their rows, read for all jobs of a page at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple
from uuid import UUID

from django.db.models import Max
from django.db.models.functions import Left

from djjp import engine
from djjp.durations import to_seconds
from djjp.engine import Engine
from djjp.models import LIVE, Attempt, Flag, Job, Queue, State
from djjp.monitoring.causes import claims
from djjp.monitoring.consumers import read
from djjp.served import Servers

#: The characters of arguments from which on they are left out, and those of a message that are read.
LONGEST_ARGUMENTS, LONGEST_MESSAGE = 16_000, 300

_WAITING = {*LIVE} - {State.RUNNING}


class Wait(NamedTuple):
    """A reason why a job has not started, with the code that `explain` gives it.

    Attributes:
        until: when it ends; None if that is not known.
    """

    code: str
    text: str
    until: datetime | None = None


class LastError(NamedTuple):
    """The last error of a job: the class of its exception, and the beginning of the message if wanted."""

    exception_class: str
    message: str


class ListedJob(NamedTuple):
    """A job of a list.

    Attributes:
        arguments: the codec's text; None if it was not asked for, or has more than 16,000 characters.
        error: of a job that has failed, or waits for its next attempt.
        waits_for: what a job that has not started waits for besides its turn.
    """

    job: Job
    arguments: str | None
    error: LastError | None
    waits_for: list[Wait]


def described(jobs: Sequence[Job], *, texts: bool) -> list[ListedJob]:
    """Return jobs with what a list shows of them, in a number of statements that does not depend on theirs.

    Args:
        texts: read their arguments and the messages of their errors too.

    Raises:
        QueueUnavailable: the queue's database does not answer.
    """
    return engine.run(partial(_described, jobs, texts)) if jobs else []


def _described(jobs: Sequence[Job], texts: bool, engine: Engine) -> list[ListedJob]:
    arguments = _arguments(engine, jobs) if texts else {}
    errors = _errors(engine, jobs, texts=texts)
    waiting = [job for job in jobs if job.state in _WAITING]
    waits = _Waits(engine) if waiting else None
    return [
        ListedJob(
            job,
            arguments.get(job.pk),
            errors.get(job.pk),
            waits.of(job) if waits and job.state in _WAITING else [],
        )
        for job in jobs
    ]


def _arguments(engine: Engine, jobs: Sequence[Job]) -> dict[UUID, str]:
    rows = Job.objects.using(engine.db.alias).filter(pk__in=[job.pk for job in jobs]).order_by()
    heads = rows.values_list("pk", Left("arguments", LONGEST_ARGUMENTS + 1))
    return {id: text for id, text in heads if text and len(text) <= LONGEST_ARGUMENTS}


def _errors(engine: Engine, jobs: Sequence[Job], *, texts: bool) -> dict[UUID, LastError]:
    """Return the last errors of those that have failed, or are tried again."""
    ids = [
        job.pk
        for job in jobs
        if job.state == State.FAILED or (job.state in _WAITING and job.attempts)
    ]
    if not ids:
        return {}
    attempts = Attempt.objects.using(engine.db.alias)
    last = attempts.filter(job__in=ids).values("job").annotate(last=Max("pk")).order_by()
    rows = attempts.filter(pk__in=last.values("last")).order_by()
    found = rows.values_list("job_id", "exception_class", Left("message", LONGEST_MESSAGE))
    return {job: LastError(name, message if texts else "") for job, name, message in found}


class _Waits:
    """Finds what jobs wait for, with what is read for all of them."""

    def __init__(self, engine: Engine) -> None:
        now = time.time()
        rows = Queue.objects.using(engine.db.alias).values_list("pk", "paused_until")
        self._paused = {
            name: until for name, until in rows if until is None or to_seconds(until) > now
        }
        self._claiming = Servers((info.queues, info) for info, _ in read(engine) if claims(info))

    def of(self, job: Job) -> list[Wait]:
        found = []
        if job.queue in self._paused:
            until = self._paused[job.queue]
            ending = "until somebody resumes it" if until is None else "and resumes"
            found.append(Wait("paused", f"queue {job.queue} is paused {ending}", until))
        if not self._claiming.any(job.queue):
            found.append(Wait("no_consumer", f"no consumer serves queue {job.queue}"))
        found += _own(job)
        if job.expires_at is not None and job.flags & Flag.EXPIRES and not job.attempts:
            found.append(Wait("expires", "expires", job.expires_at))
        return found


def _own(job: Job) -> list[Wait]:
    """Return what a job waits for by its own row."""
    if job.state == State.BLOCKED:
        if job.flags & Flag.ON_FAILURE:
            return [Wait("parents", "a failure in its pipeline")]
        if job.waits_for:
            others = "1 other job" if job.waits_for == 1 else f"{job.waits_for:,} other jobs"
            return [Wait("parents", f"{others} of its pipeline")]
        return [Wait("limit", f"a permit of its limit {job.limit_key}")] if job.limit_key else []
    if job.state == State.SCHEDULED:
        if job.flags & Flag.THROTTLED and not job.attempts:
            return [Wait("rate", f"its rate {job.limit_key} lets it start", job.run_after)]
        text = f"attempt {job.attempts + 1} is due" if job.attempts else "due"
        return [Wait("scheduled", text, job.run_after)]
    return []
