"""The command `stats`: what has ended in a time, how long it waited and how long it ran."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import click

from djjp import errors
from djjp.durations import ago
from djjp.management import completion
from djjp.management.group import Subcommand, UsageFailure, answer
from djjp.management.moments import since_option
from djjp.management.output import echo, print_table, span
from djjp.monitoring import Filter, shapes
from djjp.monitoring.filters import FilterError
from djjp.monitoring.overview import queue_infos
from djjp.monitoring.totals import Figures, totals

By = Literal["none", "queue", "name", "minute", "hour", "day"]


@click.command(cls=Subcommand)
@since_option("1h", "The time from which ends count")
@click.option(
    "--by",
    type=click.Choice(["queue", "name", "minute", "hour", "day"]),
    help="One row for each of these.",
)
@click.option(
    "--queue", metavar="NAME", shell_complete=completion.queue_names, help="Only this queue."
)
@click.option("--name", metavar="NAME", shell_complete=completion.job_names, help="Only this job.")
def stats(since: datetime, by: By | None, queue: str | None, name: str | None) -> None:
    """Show exact figures of what has ended: by outcome, with waiting and running times.

    The times p50 and p95 are those that half of the jobs, and 95 % of them, did not exceed; they are right to a
    factor of two.

    \b
    Example: manage.py djjp stats --since 24h --by name
    """
    try:
        Filter.of({"queue": queue, "name": name})
    except FilterError as error:
        raise UsageFailure(errors.INVALID_FILTER, str(error)) from error
    found = totals(since, queue=queue, name=name, by=by or "none")
    answer(
        lambda: shapes.stats(
            found,
            [each for each in queue_infos() if queue in (None, each.name)],
            since=since,
            by=by,
        ),
        lambda: _show(found, by),
    )


def _show(found: list[Figures], by: By | None) -> None:
    if not found:
        echo("nothing has ended")
        return
    labels = {"queue": ["queue"], "name": ["name", "queue"]}.get(
        by or "", [] if by is None else [by]
    )
    head = [
        *labels,
        *("succeeded", "failed", "cancelled", "retried", "rescued", "late"),
        *("wait p50", "wait p95", "run p50", "run p95"),
    ]
    print_table(head, [[*_labels(each, by), *_cells(each)] for each in found], whole=())


def _labels(each: Figures, by: By | None) -> list[str]:
    if by == "queue":
        return [each.queue]
    if by == "name":
        return [each.name, each.queue]
    return [] if by is None else [ago(each.starts_at)]


def _cells(each: Figures) -> list[object]:
    return [
        *(each.succeeded, each.failed, each.cancelled, each.retried, each.rescued, each.late),
        *(span(times.percentile(q)) for times in (each.waits, each.runs) for q in (50, 95)),
    ]
