"""`manage.py djjp …`: inspect and control the queue from a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

import djclick as click
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError
from django.utils import timezone

from djjp import monitoring, queues
from djjp.consumer import pruner
from djjp.consumer.process import require
from djjp.durations import to_datetime
from djjp.exceptions import JobDoesNotExist, QueueUnavailable
from djjp.jobs.handles import JobHandle, get_job
from djjp.models import FINISHED, Job, Schedule, State
from djjp.schedules import listing, next_occurrence, problem, when


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    """Turn expected errors into an error message of one line."""
    try:
        yield
    except (ImproperlyConfigured, JobDoesNotExist, QueueUnavailable) as error:
        raise CommandError(str(error)) from error


@click.group()
def command() -> None:
    """Inspect and control the queue."""
    with _errors_in_one_line():
        require()


@command.command()
def status() -> None:
    """Show the number of jobs in each queue, and the consumers."""
    with _errors_in_one_line():
        counts, consumers = monitoring.counts(), monitoring.consumers()
        paused = queues.paused()
    if counts:
        rows = [[name, *(found.get(s, 0) for s in State)] for name, found in counts.items()]
        _table(["queue", *(state.value for state in State)], rows)
    else:
        click.echo("no jobs")
    for name, until in paused.items():
        click.echo(f"{name} is paused" + ("" if until is None else f" until {format_time(until)}"))
    click.echo()
    if not consumers:
        click.echo("no consumers")
    for consumer in consumers:
        served = "all queues" if consumer.queues is None else ", ".join(consumer.queues)
        click.echo(
            f"consumer {consumer.name}: serves {served}, up to {consumer.limit} jobs at once; "
            f"started {format_time(consumer.started_at)}, heartbeat {_age(consumer.heartbeat_at)} ago"
        )
        for name, jobs, since in consumer.runs:
            click.echo(f"    {jobs} × {name}, the longest for {_age(since)}")


@command.command()
@click.option("--state", type=click.Choice([state.value for state in State]), help="In this state.")
@click.option("--queue", help="In this queue.")
@click.option("--name", help="Of this name.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many.")
def jobs(state: str | None, queue: str | None, name: str | None, limit: int) -> None:
    """List jobs, newest first."""
    with _errors_in_one_line():
        found = monitoring.latest_jobs(state=state, queue=queue, name=name, limit=limit)
    if found:
        head = ["id", "state", "queue", "name", "attempts", "created", "finished"]
        _table(head, [_row(job) for job in found])
    else:
        click.echo("no jobs")


@command.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
def retry(ids: Sequence[str]) -> None:
    """Make jobs that have ended ready again, with fresh attempts."""
    with _errors_in_one_line():
        for handle in _found(ids):
            if handle.state not in FINISHED:
                click.echo(f"{handle.id} is {handle.state}: left alone")
                continue
            handle.retry()
            click.echo(f"{handle.id} is {handle.state}")


@command.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
def cancel(ids: Sequence[str]) -> None:
    """Stop jobs that have not ended."""
    with _errors_in_one_line():
        for handle in _found(ids):
            if handle.state in FINISHED:
                click.echo(f"{handle.id} is {handle.state}: left alone")
                continue
            handle.cancel()
            told = ", and told to stop" if handle.state == State.RUNNING else ""
            click.echo(f"{handle.id} is {handle.state}{told}")


def _pausable(
    context: click.Context, parameter: click.Parameter, names: Sequence[str]
) -> Sequence[str]:
    """Validate all names before the first queue is paused."""
    try:
        for name in names:
            queues.validate_name(name)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return names


@command.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", callback=_pausable)
@click.option("--for", "seconds", type=click.FloatRange(0, min_open=True), metavar="SECONDS")
def pause(names: Sequence[str], seconds: float | None) -> None:
    """Have the jobs of queues wait, until these are resumed or for so many seconds."""
    with _errors_in_one_line():
        for name in dict.fromkeys(names):
            try:
                until = queues.pause(name, seconds)
            except ValueError as error:
                raise click.UsageError(str(error)) from error
            ends = "" if until is None else f" until {format_time(until)}"
            click.echo(f"{name} is paused{ends}")


@command.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def resume(names: Sequence[str]) -> None:
    """Have the jobs of paused queues run again."""
    with _errors_in_one_line():
        for name in dict.fromkeys(names):
            was = queues.resume(name)
            click.echo(f"{name} goes on" if was else f"{name} was not paused")


@command.command()
@click.option("--keep-succeeded", type=click.FloatRange(0), metavar="SECONDS")
@click.option("--keep-failed", type=click.FloatRange(0), metavar="SECONDS")
def prune(keep_succeeded: float | None, keep_failed: float | None) -> None:
    """Delete jobs that ended long ago: as long as the settings say, or these seconds."""
    with _errors_in_one_line():
        count = pruner.prune(keep_succeeded, keep_failed)
    click.echo(f"{count} {'job' if count == 1 else 'jobs'} pruned")


@command.command()
def schedules() -> None:
    """List the schedules: their next occurrence, and whether their job is registered."""
    with _errors_in_one_line():
        found = listing()
    if found:
        head = ["name", "job", "when", "enabled", "next", "last", ""]
        _table(head, [_scheduled(row) for row in found])
    else:
        click.echo("no schedules")


def _scheduled(row: Schedule) -> list[object]:
    wrong = problem(row)
    following = next_occurrence(row) if row.enabled and wrong is None else None
    times = [
        format_time(None if at is None else to_datetime(at))
        for at in (following, row.last_occurrence)
    ]
    return [
        row.name,
        row.job,
        when(row),
        "yes" if row.enabled else "no",
        *times,
        "" if wrong is None else f"not here: {wrong}",
    ]


def _found(ids: Iterable[str]) -> list[JobHandle]:
    """Return the handles of all jobs, before any of them is changed."""
    return [get_job(id) for id in dict.fromkeys(ids)]


def _row(job: Job) -> list[object]:
    made, ended = format_time(job.created_at), format_time(job.finished_at)
    return [job.pk, job.state, job.queue, job.name, job.attempts, made, ended]


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows with aligned columns; numbers to the right."""
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]
    right = [all(isinstance(row[i], int) for row in rows) for i in range(len(head))]
    for row in [head, *rows]:
        cells = [
            str(cell).rjust(width) if number else str(cell).ljust(width)
            for cell, width, number in zip(row, widths, right, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def format_time(value: datetime | None) -> str:
    if value is None:
        return "-"
    local = timezone.localtime(value) if timezone.is_aware(value) else value
    return f"{local:%Y-%m-%d %H:%M:%S}"


def _age(value: datetime) -> str:
    now = timezone.now()
    # The clocks of two machines differ.
    return f"{max(0.0, (now - value).total_seconds()):.1f} s"
