"""Commands for queues: `queues`, `pause`, `resume`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import click

from djjp import errors, queues
from djjp.durations import ago
from djjp.management import completion
from djjp.management.group import Failure, Subcommand, answer
from djjp.management.output import echo, print_table, span
from djjp.monitoring import shapes
from djjp.monitoring.overview import QueueInfo, queue_infos
from djjp.monitoring.queues import known_queues


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


@click.command(cls=Subcommand)
@click.argument(
    "names",
    nargs=-1,
    required=True,
    metavar="NAME...",
    callback=_pausable,
    shell_complete=completion.queue_names,
)
@click.option(
    "--for",
    "seconds",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Resume automatically after this time.",
)
def pause(names: Sequence[str], seconds: float | None) -> None:
    """Pause queues: no consumer starts their jobs until they are resumed.

    \b
    Example: manage.py djjp pause mail --for 3600
    """
    paused: dict[str, datetime | None] = {}
    for name in dict.fromkeys(names):
        try:
            paused[name] = queues.pause(name, seconds)
        except ValueError as error:
            raise click.UsageError(str(error)) from error

    def show() -> None:
        for name, until in paused.items():
            ends = "" if until is None else f"; it resumes {ago(until)}"
            echo(f"{name} is paused{ends}")

    answer(
        lambda: {"queues": [shapes.pause(name, True, until) for name, until in paused.items()]},
        show,
    )


@click.command(cls=Subcommand)
@click.argument(
    "names", nargs=-1, required=True, metavar="NAME...", shell_complete=completion.queue_names
)
def resume(names: Sequence[str]) -> None:
    """Resume paused queues: consumers start their jobs again.

    \b
    Example: manage.py djjp resume mail
    """
    resumed = {name: queues.resume(name) for name in dict.fromkeys(names)}
    idle = {name for name, was_paused in resumed.items() if not was_paused}
    unknown = sorted(idle - known_queues()) if idle else []
    but = None
    if unknown:
        names_there = ", ".join(map(repr, unknown))
        but = Failure(errors.QUEUE_NOT_FOUND, f"there is no queue {names_there}", unknown=unknown)

    def show() -> None:
        for name, was_paused in known.items():
            echo(f"{name} is resumed" if was_paused else f"{name} was not paused")

    known = {name: was for name, was in resumed.items() if name not in unknown}
    answer(lambda: {"queues": [shapes.pause(name, False, None) for name in known]}, show, but=but)


@click.command("queues", cls=Subcommand)
def queues_command() -> None:
    """List the queues: their jobs by state, oldest wait, jobs in and out per minute, and consumers.

    \b
    Example: manage.py djjp queues
    """
    found = queue_infos()

    def show() -> None:
        if found:
            print_table(HEAD, [queue_row(each) for each in found], whole=["queue"])
        else:
            echo("no jobs")

    answer(lambda: {"queues": [shapes.queue(each) for each in found]}, show)


#: The columns of queues.
HEAD = [
    *("queue", "ready", "running", "scheduled", "blocked", "oldest wait", "in/min", "out/min"),
    *("consumers", "state"),
]


def queue_row(info: QueueInfo) -> list[object]:
    """Return the cells of a queue in a table."""
    return [
        info.name,
        *(_number(info, state) for state in ("ready", "running", "scheduled", "blocked")),
        span(info.oldest_wait),
        _rate(info.in_per_minute),
        _rate(info.out_per_minute),
        len(info.served_by),
        "" if not info.is_paused else "paused" + _until(info.paused_until),
    ]


def _number(info: QueueInfo, state: str) -> object:
    number = info.counts[state]
    return f"{number:,}+" if state in info.lower_bounds and number else number


def _rate(value: float | None) -> str:
    return (
        "-" if value is None else f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}"
    )


def _until(until: datetime | None) -> str:
    return "" if until is None else f", resumes {ago(until)}"
