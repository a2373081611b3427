"""One verb for all jobs of a filter: its preview, its confirmation, its progress."""

from __future__ import annotations

import getpass
import sys

import click

from djjp import errors
from djjp.management.group import Failure, answer, wants_json
from djjp.management.output import count, echo, is_interactive
from djjp.models import Progression, Verb
from djjp.monitoring import Filter, consumers, operations, shapes
from djjp.monitoring.consumers import Life
from djjp.monitoring.known import nothing_matches
from djjp.monitoring.operations import OperationInfo, Preview

#: What was done, as in "is not moved".
PARTICIPLES = {
    Verb.RETRY: "retried",
    Verb.CANCEL: "cancelled",
    Verb.RUN: "made ready",
    Verb.DELETE: "deleted",
    Verb.MOVE: "moved",
    Verb.PRIORITY: "changed",
}


def do_to_filter(
    verb: Verb, wanted: Filter, argument: str | int, *, dry_run: bool, yes: bool, wait: bool
) -> None:
    """Show what a verb would do to the jobs of a filter; if that is confirmed, do it.

    With a live consumer the command ends once the operation is written, unless it must wait.
    """
    found = operations.preview(verb, filter=wanted, argument=argument)
    if not found.matched and not found.has_more:
        raise Failure(errors.NOTHING_MATCHED, nothing_matches(wanted))
    if dry_run:
        answer(lambda: shapes.preview(found), lambda: echo(f"{found}; nothing was changed"))
        return
    if not yes:
        _confirm(verb, found)
    info = operations.start(verb, filter=wanted, argument=argument, requested_by=requester())
    if not info.has_ended and (wait or not _any_alive()):
        info = _wait_for(info)
    failed = info.state == Progression.FAILED
    but = (
        Failure(errors.FAILED, f"the operation {info.id} failed: {info.error}") if failed else None
    )
    answer(lambda: shapes.operation(info), lambda: echo(sentence(info)), but=but)


def _confirm(verb: Verb, found: Preview) -> None:
    if wants_json() or not is_interactive():
        raise click.UsageError(f"{found}; without a terminal to ask on, --yes is needed")
    echo(str(found))
    if not click.confirm(f"{str(verb).capitalize()} them?"):
        raise Failure(errors.FAILED, "not confirmed: nothing was changed")


def requester() -> str:
    """Return who asks, as operations record it."""
    try:
        return f"cli:{getpass.getuser()}"
    except (OSError, KeyError):  # a process without a user's name, as in a container
        return "cli:"


def _any_alive() -> bool:
    return any(each.life is Life.ALIVE for each in consumers())


def _wait_for(info: OperationInfo) -> OperationInfo:
    """Wait for an operation, and work on it while no consumer does."""
    shows = sys.stderr is not None and sys.stderr.isatty() and not wants_json()

    def show(now: OperationInfo) -> None:
        if shows:
            click.echo(
                f"\r{now.matched:,} considered, {now.done:,} {PARTICIPLES[now.verb]}",
                nl=False,
                err=True,
            )

    try:
        return operations.work_off(info.id, on_step=show) or info
    except KeyboardInterrupt:
        raise Failure(
            errors.FAILED,
            f"no longer waiting; consumers go on with the operation {info.id}, unless it is stopped: "
            f"python manage.py djjp operations stop {info.id}",
        ) from None
    finally:
        if shows:
            click.echo(err=True)


def sentence(info: OperationInfo) -> str:
    """Return what an operation has done, or that it goes on."""
    if not info.has_ended:
        return (
            f"the operation {info.id} is {info.state}: consumers work on it; "
            "see python manage.py djjp operations"
        )
    text = f"{count(info.done, 'job')} {PARTICIPLES[info.verb]}"
    left = sum(info.skipped.values())
    if left:
        text += f"; {left:,} left alone: {operations.listed(info.skipped)}"
    return text if info.state == Progression.DONE else f"{text}; the operation is {info.state}"
