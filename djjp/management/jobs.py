"""The command `jobs`: the jobs of a filter, page by page."""

from __future__ import annotations

import shlex

import click

from djjp import errors
from djjp.durations import ago
from djjp.management.filtering import FilteredCommand
from djjp.management.group import Failure, UsageFailure, answer
from djjp.management.output import echo, print_table
from djjp.models import Job
from djjp.monitoring import Filter, FilterError, Page, find, shapes
from djjp.monitoring.jobs import MOST
from djjp.monitoring.known import nothing_matches


@click.command(cls=FilteredCommand)
@click.option(
    "--limit",
    type=click.IntRange(1, MOST),
    default=20,
    show_default=True,
    help="The most rows to print.",
)
@click.option("--cursor", metavar="CURSOR", help="Go on from here, as an earlier page tells.")
def jobs(wanted: Filter, limit: int, cursor: str | None) -> None:
    """List the jobs of a filter, newest first.

    \b
    Example: manage.py djjp jobs --state failed --queue mail --since 2h
    """
    try:
        page = find(wanted, limit=limit, cursor=cursor)
    except FilterError as error:
        raise UsageFailure(errors.INVALID_FILTER, str(error)) from error
    but = None
    if wanted and not page.jobs and page.looked_back_to is None and cursor is None:
        but = Failure(errors.NOTHING_MATCHED, nothing_matches(wanted))
    answer(lambda: shapes.page(page), lambda: _show(page, wanted), but=but)


def _show(page: Page, wanted: Filter) -> None:
    if page.jobs:
        head = ["id", "state", "queue", "name", "attempts", "created", "finished"]
        print_table(head, [_row(job) for job in page.jobs])
    else:
        echo("no jobs")
    if page.looked_back_to is not None:
        echo(f"the search has come to jobs of {ago(page.looked_back_to)}, and found no more so far")
    if page.next is not None:
        echo(f"more: python manage.py djjp jobs {options(wanted)}--cursor {page.next}")


def options(wanted: Filter) -> str:
    """Return the options of a filter, as typed in a shell, each with a space behind."""
    return "".join(
        f"--{key.replace('_', '-')} {shlex.quote(value)} " for key, value in wanted.texts().items()
    )


def _row(job: Job) -> list[object]:
    made, ended = ago(job.created_at), ago(job.finished_at)
    return [job.pk, job.state, job.queue, job.name, job.attempts, made, ended]
