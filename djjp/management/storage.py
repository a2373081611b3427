"""Commands for the queue's tables and its outboxes: `migrate`, `prune`, `backup`, `transfer`, `outbox`."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from django.core.management import call_command
from django.core.management.commands.migrate import Command as Migrate

from djjp import conf, engine, errors
from djjp.consumer import pruner
from djjp.consumer.transfer import transfer as move_queue
from djjp.management.group import Failure, Subcommand, answer, wants_json
from djjp.management.moments import Seconds
from djjp.management.output import count, echo, print_table
from djjp.monitoring import shapes
from djjp.outbox import table, transactions
from djjp.outbox.requirements import require_aliases, require_outbox


@click.command(cls=Subcommand, needs_queue=False)
def migrate() -> None:
    """Create or change the queue's tables by Django's own migrate, also where an app has replaced that command.

    \b
    Example: manage.py djjp migrate
    """
    alias = conf.current().db_name
    options: dict[str, Any] = {"stdout": io.StringIO()} if wants_json() else {}
    call_command(Migrate(), database=alias, **options)
    answer(lambda: {"database": alias, "migrated": True}, lambda: None)


@click.command(cls=Subcommand)
@click.option(
    "--keep-succeeded",
    type=Seconds(0),
    metavar="SECONDS",
    help="Keep succeeded jobs for this time, not for that of the settings.",
)
@click.option(
    "--keep-failed",
    type=Seconds(0),
    metavar="SECONDS",
    help="Keep failed and cancelled jobs for this time, not for that of the settings.",
)
def prune(keep_succeeded: float | None, keep_failed: float | None) -> None:
    """Delete jobs that ended longer ago than the settings or these options keep them.

    \b
    Example: manage.py djjp prune --keep-succeeded 3600
    """
    pruned = pruner.prune(keep_succeeded, keep_failed)
    answer(lambda: {"pruned": pruned}, lambda: echo(f"{count(pruned, 'job')} pruned"))


@click.command(cls=Subcommand)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def backup(file: Path) -> None:
    """Copy a queue on SQLite into a new file, while consumers and enqueuers go on.

    \b
    Example: manage.py djjp backup queue-backup.sqlite3
    """
    try:
        engine.current().db.backup(file)
    except (ValueError, OSError) as error:
        raise Failure(errors.FAILED, str(error)) from error
    answer(lambda: {"file": str(file)}, lambda: echo(f"the queue is copied to {file}"))


@click.command(cls=Subcommand, needs_queue=False)
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
def transfer(source: str, target: str) -> None:
    """Move a whole queue from one alias in DATABASES to another; a run that was broken off is continued.

    \b
    Example: manage.py djjp transfer queue new_queue
    """
    shown = 0.0
    silent = wants_json()

    def show(moved: int, total: int) -> None:
        nonlocal shown
        if not silent and (now := time.monotonic()) >= shown + 1.0:
            shown = now
            echo(f"{moved:,} of {total:,} rows moved")

    try:
        moved = move_queue(source, target, show)
    except ValueError as error:
        raise Failure(errors.FAILED, str(error)) from error
    answer(
        lambda: {"from": source, "to": target, "rows": moved},
        lambda: echo(f"the queue is moved from {source} to {target}: {moved:,} rows"),
    )


@click.command(cls=Subcommand, needs_queue=False)
@click.option("--retry", "retried", multiple=True, metavar="ID", help="Have a job relayed again.")
@click.option(
    "--delete", "deleted", multiple=True, metavar="ID", help="Delete a job: it never runs."
)
def outbox(retried: Sequence[str], deleted: Sequence[str]) -> None:
    """List the jobs in the outboxes, and those that the queue refuses, which are set aside.

    \b
    Example: manage.py djjp outbox --retry 01a20ea1-30c5-7899-9bf1-a6a7d8c6d722
    """
    require_aliases()
    for alias in table.outboxes():
        with table.named(alias):
            transactions.commit_each_statement(alias)
        require_outbox(alias)
    aside = {
        (alias, str(row.key)): row
        for alias in table.outboxes()
        for row in table.rows_set_aside(alias)
    }
    if unknown := {*retried, *deleted} - {key for _, key in aside}:
        raise Failure(
            errors.JOB_NOT_FOUND, f"not set aside in any outbox: {', '.join(sorted(unknown))}"
        )
    done: list[tuple[str, str]] = []
    for (alias, key), row in aside.items():
        if key in retried:
            table.restore(alias, row.key)
            done.append((key, "is relayed again"))
        elif key in deleted:
            table.drop(alias, row.key)
            done.append((key, "is deleted"))
    waiting = {alias: table.count_waiting(alias) for alias in table.outboxes()}
    left = [(alias, row) for (alias, key), row in aside.items() if key not in dict(done)]

    def document() -> shapes.Document:
        return {
            "outboxes": [{"alias": a, "waiting": number} for a, number in waiting.items()],
            "set_aside": [
                {
                    "alias": alias,
                    "id": str(row.key),
                    "enqueued": row.enqueued,
                    "problem": row.problem,
                }
                for alias, row in left
            ],
            "relayed_again": [key for key, what in done if what == "is relayed again"],
            "deleted": [key for key, what in done if what == "is deleted"],
        }

    def show() -> None:
        for key, what in done:
            echo(f"{key} {what}")
        if not done:
            _list_outboxes(waiting, left)

    answer(document, show)


def _list_outboxes(waiting: dict[str, int], aside: Sequence[tuple[str, table.SetAside]]) -> None:
    if not waiting:
        echo("there is no outbox")
    for alias, number in waiting.items():
        verb = "waits for its relay" if number == 1 else "wait for their relay"
        echo(f"outbox of {alias}: {count(number, 'job')} {verb}")
    if aside:
        head = ["outbox", "id", "enqueued", "set aside because"]
        rows = [[alias, row.key, row.enqueued, row.problem] for alias, row in aside]
        print_table(head, rows)
