"""The command `operations`: what was done to many jobs, and `stop` for one that still works."""

from __future__ import annotations

from uuid import UUID

import click

from djjp import errors
from djjp.durations import ago
from djjp.management.group import Failure, Subgroup, answer
from djjp.management.output import echo, print_table
from djjp.monitoring import operations, shapes
from djjp.monitoring.operations import OperationInfo, listed


@click.group("operations", cls=Subgroup)
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="The most to show."
)
@click.pass_context
def operations_group(context: click.Context, limit: int) -> None:
    """List the operations on many jobs, newest first: what they have done, and left alone.

    \b
    Examples: manage.py djjp operations
              manage.py djjp operations stop 01a20ea1-30c5-7899-9bf1-a6a7d8c6d722
    """
    if context.invoked_subcommand is None:
        found = operations.operations(limit=limit)
        answer(
            lambda: {"operations": [shapes.operation(each) for each in found]},
            lambda: _show(found),
        )


def _show(found: list[OperationInfo]) -> None:
    if not found:
        echo("no operations")
        return
    head = ["id", "state", "verb", "done", "of", "left alone", "started", "by", "filter"]
    print_table(head, [_row(each) for each in found])
    for each in found:
        if each.error:
            echo(f"{each.id}: {each.error}", fg="red")


def _row(info: OperationInfo) -> list[object]:
    return [
        info.id,
        str(info.state),
        f"{info.verb} {info.argument}".strip(),
        info.done,
        info.matched,
        listed(info.skipped) or "-",
        ago(info.started_at or info.created_at),
        info.requested_by,
        "by ids" if info.filter is None else info.filter,
    ]


@operations_group.command("stop")
@click.argument("id")
def stop(id: str) -> None:
    """Stop an operation before its next step; what it has done stays done.

    \b
    Example: manage.py djjp operations stop 01a20ea1-30c5-7899-9bf1-a6a7d8c6d722
    """
    try:
        info = operations.stop(UUID(id))
    except ValueError:
        info = None
    if info is None:
        raise Failure(errors.OPERATION_NOT_FOUND, f"there is no operation {id}")
    answer(lambda: shapes.operation(info), lambda: echo(f"the operation {info.id} is {info.state}"))
