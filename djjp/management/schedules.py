"""The command `schedules`: list them, run one now, enable and disable them."""

from __future__ import annotations

import time
from collections.abc import Sequence

import click

from djjp import engine, errors, schedules
from djjp.durations import ago
from djjp.exceptions import JobNotRegistered
from djjp.management import completion
from djjp.management.group import Failure, Subgroup, answer
from djjp.management.output import echo, print_table
from djjp.models import Schedule
from djjp.monitoring import shapes
from djjp.monitoring.one_job import one_job


@click.group("schedules", cls=Subgroup)
@click.pass_context
def schedules_group(context: click.Context) -> None:
    """List the schedules: their next and last occurrence, and problems such as a job that is gone.

    \b
    Examples: manage.py djjp schedules
              manage.py djjp schedules run shop.jobs.report
    """
    if context.invoked_subcommand is not None:
        return
    found = schedules.listing()

    def show() -> None:
        if found:
            head = ["name", "job", "when", "enabled", "next", "last", "problem"]
            print_table(head, [_row(row) for row in found], whole=["name"])
        else:
            echo("no schedules; consumers add those of the code when they start")

    answer(lambda: {"schedules": [shapes.schedule(row) for row in found]}, show)


_names = click.argument(
    "names",
    nargs=-1,
    required=True,
    metavar="NAME...",
    shell_complete=completion.schedule_names,
)


@schedules_group.command("run")
@click.argument("name", shell_complete=completion.schedule_names)
def run(name: str) -> None:
    """Enqueue the job of a schedule now, beside its occurrences.

    \b
    Example: manage.py djjp schedules run shop.jobs.report
    """
    row = _named([name])[0]
    try:
        handle = schedules.run_now(row)
    except (JobNotRegistered, ValueError, TypeError) as error:
        raise Failure(errors.CONFLICT, f"the schedule {name} cannot run: {error}") from error
    job = one_job(handle.id)
    answer(lambda: shapes.whole_job(*job), lambda: echo(f"{handle.id} is {handle.state}"))


@schedules_group.command("enable")
@_names
def enable(names: Sequence[str]) -> None:
    """Enable schedules: they run from their next occurrence on.

    \b
    Example: manage.py djjp schedules enable shop.jobs.report
    """
    _switch(names, enabled=True)


@schedules_group.command("disable")
@_names
def disable(names: Sequence[str]) -> None:
    """Disable schedules: they run no more until they are enabled.

    \b
    Example: manage.py djjp schedules disable shop.jobs.report
    """
    _switch(names, enabled=False)


def _switch(names: Sequence[str], *, enabled: bool) -> None:
    rows = _named(names)
    changed = [row.pk for row in rows if row.enabled != enabled]
    engine.run(lambda engine: engine.schedules.enable(changed, enabled, time.time()))
    word = "enabled" if enabled else "disabled"

    def show() -> None:
        for row in rows:
            echo(f"{row.name} is {word}" if row.pk in changed else f"{row.name} was {word} already")

    answer(lambda: {"schedules": [shapes.schedule(row) for row in _named(names)]}, show)


def _named(names: Sequence[str]) -> list[Schedule]:
    """Return the schedules of these names; refuse a name that none has, before anything is changed."""
    found = schedules.listing()
    if unknown := [name for name in names if name not in {row.name for row in found}]:
        raise Failure(errors.SCHEDULE_NOT_FOUND, f"there is no schedule {', '.join(unknown)}")
    return [row for row in found if row.name in names]


def _row(row: Schedule) -> list[object]:
    shape = shapes.schedule(row)
    problem: str | None = shape["problem"]
    following = schedules.next_occurrence(row) if row.enabled and problem is None else None
    return [
        row.name,
        row.job,
        schedules.when(row),
        "yes" if row.enabled else "no",
        ago(following),
        ago(row.last_occurrence),
        problem or "",
    ]
