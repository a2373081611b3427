"""Hooks of an enqueue: the instruments around it, and the signal `job_enqueued` after its commit."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from uuid import UUID

from django.db import transaction

from djjp import instruments, signals
from djjp.durations import to_datetime
from djjp.engine import NewJob, NewPipeline
from djjp.instruments import Call
from djjp.models import Flag
from djjp.outbox import transactions

Unit = Sequence[NewJob] | NewPipeline


@contextmanager
def around(jobs: Unit) -> Iterator[Unit]:
    """Be inside the instruments while jobs are enqueued; give the jobs with the context that these have made."""
    with instruments.around_enqueue(calls_of(jobs)) as text:
        if text is None:
            yield jobs
        elif isinstance(jobs, NewPipeline):
            yield jobs._replace(jobs=[with_context(job, text) for job in jobs.jobs])
        else:
            yield [with_context(job, text) for job in jobs]


def announce(jobs: Unit, held: Container[UUID], alias: str) -> None:
    """Send `job_enqueued` for jobs that were written, once the open transaction of this alias has committed.

    A transaction that is committed by hand has no hook for that, and a TestCase's own counts as none.

    Args:
        held: the jobs that were not written, because other jobs hold their unique keys.
    """
    if not signals.job_enqueued.receivers:
        return
    calls = calls_of(jobs, held)
    if transactions.commits_at_once(alias) or transactions.is_manual(alias):
        send_enqueued(calls)
    else:
        transaction.on_commit(partial(send_enqueued, calls), using=alias, robust=True)


def send_enqueued(calls: Iterable[Call]) -> None:
    """Send `job_enqueued` for each of these calls."""
    for call in calls:
        signals.send(signals.job_enqueued, signals.job_named(call.name), job=call)


async def asend_enqueued(jobs: Unit, held: Container[UUID]) -> None:
    """Send `job_enqueued` for jobs that were written and committed."""
    if signals.job_enqueued.receivers:
        for call in calls_of(jobs, held):
            await signals.asend(signals.job_enqueued, signals.job_named(call.name), job=call)


def calls_of(
    jobs: Unit,
    held: Container[UUID] = (),
    schedule: str | None = None,
) -> list[Call]:
    """Return jobs as instruments get them, without those that stand for nothing that was enqueued."""
    rows = jobs.jobs if isinstance(jobs, NewPipeline) else jobs
    return [
        Call(
            job.id,
            job.name,
            job.queue,
            job.priority,
            None if job.run_after is None else to_datetime(job.run_after),
            job.pipeline,
            schedule,
        )
        for job in rows
        if not job.flags & Flag.UNLISTED and job.id not in held
    ]


def with_context(job: NewJob, text: str) -> NewJob:
    """Return a job with the text of its context."""
    if job.flags & Flag.UNLISTED:
        return job
    return job._replace(context=text, flags=job.flags | Flag.CONTEXT)
