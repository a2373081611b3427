"""The command `status`: what the queue does now, and with `--watch` again and again."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import click

from djjp import schedules
from djjp.bounds import one_line
from djjp.durations import ago
from djjp.management.consumers import row as consumer_row
from djjp.management.group import Subcommand, answer, wants_json
from djjp.management.moments import Seconds
from djjp.management.output import count, echo, span, table_lines, terminal_width
from djjp.management.queues import HEAD, queue_row
from djjp.management.watch import Picture, watch
from djjp.monitoring import shapes
from djjp.monitoring.overview import OutboxInfo, Overview, overview

Line = tuple[str, dict[str, Any]]

_BOLD: dict[str, Any] = {"bold": True}
_CONSUMERS = ["consumer", "life", "busy", "ahead", "serves", "started", "heartbeat", "release"]
#: The incidents after the worst one that are listed.
_MORE = 5


@click.command(cls=Subcommand)
@click.option("--watch", "again", is_flag=True, help="Draw it again and again, until q or Ctrl-C.")
@click.option(
    "--interval",
    type=Seconds(0.1, 3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="The time between two drawings.",
)
def status(again: bool, interval: float) -> None:
    """Show in one screen what is wrong, the queues, the consumers, overdue schedules and the outboxes.

    \b
    Examples: manage.py djjp status
              manage.py djjp status --watch
    """
    if not again:
        found = overview()
        answer(lambda: shapes.overview(found), lambda: _show(found))
    elif wants_json():
        raise click.UsageError("--watch prints no single document: leave out --json or --watch")
    else:
        watch(Picture(overview, screen, in_one_line), interval)


def _show(found: Overview) -> None:
    for text, style in lines(found, terminal_width()):
        echo(text, **style)


def lines(found: Overview, width: int | None) -> list[Line]:
    """Return the lines of an overview, each with its style."""
    worst = bool(found.incidents)
    shown: list[Line] = [(found.sentence, {"fg": "red" if worst else "green", "bold": True})]
    shown += [(each.sentence, {"fg": "red"}) for each in found.incidents[1 : 1 + _MORE]]
    if len(found.incidents) > 1 + _MORE:
        shown.append((f"… and {len(found.incidents) - 1 - _MORE} more incidents", {}))
    shown.append(("", {}))
    shown += _table(HEAD, [queue_row(each) for each in found.queues], width, "no jobs")
    shown.append(("", {}))
    rows = [consumer_row(each) for each in found.consumers]
    shown += _table(_CONSUMERS, rows, width, "no consumers")
    for each in found.consumers:
        for runs in each.runs:
            text = (
                f"    {runs.jobs} × {runs.name} on {each.name}, the first started {ago(runs.since)}"
            )
            shown.append((text, {}))
    for row in found.overdue:
        due = ago(schedules.next_occurrence(row))
        shown.append((f"the schedule {row.name} is overdue: it was due {due}", {"fg": "yellow"}))
    shown += [(_outbox(each), {}) for each in found.outboxes if each.waiting != 0]
    return shown


def screen(found: Overview, width: int) -> list[Line]:
    """Return the lines for a screen of this width, on which sentences go on in the next line."""
    shown: list[Line] = []
    for text, style in lines(found, width):
        wrapped = textwrap.wrap(one_line(text), width, subsequent_indent="  ") or [""]
        shown += [(part, style) for part in wrapped]
    return shown


def _table(
    head: Sequence[str], rows: Sequence[Sequence[object]], width: int | None, empty: str
) -> list[Line]:
    if not rows:
        return [(empty, {})]
    first, *rest = table_lines(head, rows, width, whole=())
    return [(first, _BOLD), *((line, {}) for line in rest)]


def _outbox(outbox: OutboxInfo) -> str:
    if outbox.waiting is None:
        return f"the outbox of {outbox.alias} does not answer"
    oldest = f", the oldest for {span(outbox.oldest_wait)}"
    return f"{count(outbox.waiting, 'job')} in the outbox of {outbox.alias}{oldest}"


def in_one_line(found: Overview) -> str:
    """Return the figures of an overview as one line."""
    states = ("ready", "running", "scheduled", "blocked")
    sums = [f"{sum(each.counts[state] for each in found.queues):,} {state}" for state in states]
    out = sum(each.out_per_minute or 0.0 for each in found.queues)
    figures = ", ".join([*sums, f"{out:,.0f}/min out", count(len(found.consumers), "consumer")])
    return f"{figures}; {found.sentence}"
