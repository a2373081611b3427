"""The command `failures`: failed attempts, grouped by job, exception and the place in the project's code."""

from __future__ import annotations

import click

from djjp import errors
from djjp.durations import ago
from djjp.management.filtering import FilteredCommand
from djjp.management.group import Failure, answer
from djjp.management.jobs import options
from djjp.management.output import count, echo
from djjp.monitoring import Filter, FilterError, shapes
from djjp.monitoring.failures import FailureGroup, Failures
from djjp.monitoring.failures import failures as read_failures

_BARS = "▁▂▃▄▅▆▇█"


@click.command(cls=FilteredCommand)
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="The most groups."
)
def failures(wanted: Filter, limit: int) -> None:
    """Show failed attempts in groups: by job, exception and the innermost frame of the project's code.

    --since and --until are times of failures here.

    \b
    Example: manage.py djjp failures --since 24h --queue mail
    """
    found = read_failures(wanted, limit=limit)
    but = None
    if wanted and not found.groups and found.looked_back_to is None:
        but = Failure(errors.NOTHING_MATCHED, f"no failure matches {wanted}")
    answer(lambda: shapes.failures(found), lambda: _show(found, wanted), but=but)


def _show(found: Failures, wanted: Filter) -> None:
    if not found.groups:
        echo("no failures")
    for group in found.groups:
        echo(f"{count(group.count, 'time')}: {group.name}: {group.exception_class}", bold=True)
        if group.message:
            echo(f"    {group.message}")
        if group.frame is not None:
            echo(f"    at {group.frame}")
        echo(f"    {_sparkline(group)}  newest {ago(group.newest)}, oldest {ago(group.oldest)}")
        echo(f"    show one: python manage.py djjp show {group.example}")
        if (chosen := _retried(group, wanted)) is not None:
            echo(f"    retry them: python manage.py djjp retry {chosen}")
    if found.looked_back_to is not None:
        echo(f"the search has come to failures of {ago(found.looked_back_to)}")


def _retried(group: FailureGroup, wanted: Filter) -> str | None:
    """Return the options of the failed jobs of a group; None where no filter can have its words, by hand."""
    given = wanted.texts() | {"state": "failed", "name": group.name}
    for key in ("since", "until"):  # of jobs they are the times of their enqueue
        given.pop(key, None)
    given["exception"] = group.exception_class
    try:
        return options(Filter.of(given)).rstrip()
    except FilterError:
        return None


def _sparkline(group: FailureGroup) -> str:
    most = max(group.counts)
    return "".join(
        " " if not number else _BARS[(number * (len(_BARS) - 1)) // most] for number in group.counts
    )
