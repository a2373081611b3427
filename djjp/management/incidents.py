"""The command `incidents`: what is wrong with the queue, or was, each with its remedy."""

from __future__ import annotations

from datetime import datetime

import click

from djjp.durations import ago
from djjp.management.group import Subcommand, answer
from djjp.management.moments import since_option
from djjp.management.output import count, echo
from djjp.monitoring import Incident, shapes
from djjp.monitoring import incidents as read_incidents
from djjp.monitoring.detection import look


@click.command(cls=Subcommand)
@click.option("--open", "open_only", is_flag=True, help="Only incidents that last.")
@since_option(None, "Only incidents that lasted then or later")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="The most to show."
)
def incidents(open_only: bool, since: datetime | None, limit: int) -> None:
    """List what is wrong with the queue, worst first, then what was, newest first; each with its remedy.

    \b
    Example: manage.py djjp incidents --open
    """
    look()
    found = read_incidents(open_only=open_only, since=since, limit=limit)
    answer(lambda: {"incidents": [shapes.incident(each) for each in found]}, lambda: _show(found))


def _show(found: list[Incident]) -> None:
    if not any(each.is_open for each in found):
        echo("nothing is wrong")
    for each in found:
        if each.is_open:
            echo(f"{each.kind} since {ago(each.opened_at)}", fg="red", bold=True)
        else:
            lasted = f"from {ago(each.opened_at)} to {ago(each.closed_at)}"
            echo(f"{each.kind} {lasted}, closed", dim=True)
        echo(f"    {each.sentence}")
    if ended := sum(not each.is_open for each in found):
        echo()
        echo(f"{count(ended, 'closed incident')}; they are kept for 30 days")
