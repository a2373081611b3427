"""Commands that change jobs, by ids or by a filter: `retry`, `cancel`, `run`, `delete`, `move`, `priority`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import UUID

import click
from django.db import Error as DatabaseError

from djjp import engine, errors
from djjp.bounds import LONGEST_QUEUE, require_text
from djjp.engine import Tally
from djjp.engine.bulk import NOT_FOUND
from djjp.exceptions import JobDoesNotExist
from djjp.jobs import get_job
from djjp.jobs.reading import as_uuid
from djjp.management import bulk, completion
from djjp.management.filtering import FilteredCommand
from djjp.management.group import Failure, answer
from djjp.management.output import echo
from djjp.models import FINISHED, State, Verb
from djjp.monitoring import Filter, operations, shapes
from djjp.outbox import pending, table, transactions


class Deed(NamedTuple):
    """The result of a verb for one job.

    Attributes:
        state: its state afterwards; None for a job that is deleted.
        obstacle: why it was left alone; None if the verb was done.
    """

    id: str
    state: str | None
    obstacle: str | None

    def document(self) -> dict[str, Any]:
        """Return it as a document."""
        return {
            "id": self.id,
            "state": self.state,
            "done": self.obstacle is None,
            "reason": self.obstacle,
        }

    def line(self, verb: Verb) -> str:
        """Return it as a line."""
        done = bulk.PARTICIPLES[verb]
        if self.obstacle is not None:
            return f"{self.id} is {self.state}: not {done}, because it {self.obstacle}"
        if verb in (Verb.DELETE, Verb.MOVE):
            return f"{self.id} is {done}"
        pending = verb is Verb.CANCEL and self.state == State.RUNNING
        return f"{self.id} is {self.state}" + ("; its consumer will stop it" if pending else "")


class VerbCommand(FilteredCommand):
    """A command that does a verb to jobs: to those of its ids, or to all that match its filter."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(
            click.Argument(["ids"], nargs=-1, metavar="[ID]...", shell_complete=completion.job_ids)
        )
        options = [
            click.Option(
                ["--dry-run"], is_flag=True, help="Show what would be done, and change nothing."
            ),
            click.Option(["--yes"], is_flag=True, help="Do not ask for a confirmation."),
            click.Option(["--wait"], is_flag=True, help="Wait until all jobs are done."),
        ]
        self.params[-1:-1] = options

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        if not ctx.resilient_parsing and bool(ctx.params["ids"]) is bool(ctx.params["wanted"]):
            both = "not both" if ctx.params["ids"] else "one of them is needed"
            raise click.UsageError(f"name the jobs by their ids or by a filter: {both}", ctx)
        return rest


def _do(verb: Verb, argument: str | int = "", **given: Any) -> None:
    """Do a verb to the jobs that the options of a command name."""
    ids: Sequence[str] = given["ids"]
    wanted: Filter = given["wanted"]
    if not ids:
        options = {key: given[key] for key in ("dry_run", "yes", "wait")}
        bulk.do_to_filter(verb, wanted, argument, **options)
    elif given["dry_run"]:
        _preview_ids(verb, ids, argument)
    else:
        _do_to_ids(verb, ids, str(argument))


def _preview_ids(verb: Verb, ids: Sequence[str], argument: str | int) -> None:
    known, unknown = _split(ids)
    found = operations.preview(verb, ids=known, argument=argument)
    missing = len(unknown) + found.skipped.get(NOT_FOUND, 0)
    but = None
    if missing:
        but = Failure(errors.JOB_NOT_FOUND, f"no job has {missing} of the ids")
    answer(lambda: shapes.preview(found), lambda: echo(str(found)), but=but)


def _split(ids: Sequence[str]) -> tuple[list[UUID], list[str]]:
    """Return the UUIDs among the ids, and the others, of which no job can have one; each once."""
    known, unknown = dict[UUID, None](), dict[str, None]()
    for id in ids:
        try:
            known[as_uuid(id)] = None
        except JobDoesNotExist:
            unknown[id] = None
    return [*known], [*unknown]


def _do_to_ids(verb: Verb, ids: Sequence[str], argument: str) -> None:
    """Do a verb to jobs, one after the other; unknown ids are reported after the others."""
    done: list[Deed] = []
    known, unknown = _split(ids)
    for id in known:
        try:
            done.append(_do_to_id(verb, id, argument))
        except JobDoesNotExist:
            unknown.append(str(id))
    but = None
    if unknown:
        text = "; ".join(str(JobDoesNotExist(id)) for id in unknown)
        but = Failure(errors.JOB_NOT_FOUND, text, unknown=unknown)

    def show() -> None:
        for deed in done:
            echo(deed.line(verb))

    answer(lambda: {"verb": str(verb), "jobs": [deed.document() for deed in done]}, show, but=but)


def _do_to_id(verb: Verb, id: UUID, argument: str) -> Deed:
    if verb is Verb.DELETE and (deleted := _deleted(id)) is not None:
        return deleted
    handle = get_job(id)
    before = handle.state
    obstacle = None
    if verb is Verb.RETRY and before not in FINISHED:
        obstacle = "has not ended"
    elif verb is Verb.RETRY:
        obstacle = None if handle.retry() else "cannot run again"
    elif verb is Verb.CANCEL and before in FINISHED:
        obstacle = "has ended"
    elif verb is Verb.CANCEL:
        handle.cancel()
    else:
        tally: Tally = engine.run(lambda engine: engine.bulk.do(verb, [id], argument, time.time()))
        obstacle = None if tally.done else _obstacle(handle.id, next(iter(tally.skipped)))
        with suppress(JobDoesNotExist):
            handle.refresh()
    return Deed(str(handle.id), str(handle.state), obstacle)


def _deleted(id: UUID) -> Deed | None:
    """Delete a job, also one with a state that only a later version knows; None if it is left alone."""
    tally: Tally = engine.run(lambda engine: engine.bulk.do(Verb.DELETE, [id], "", time.time()))
    return Deed(str(id), None, None) if tally.done else None


def _obstacle(id: UUID, reason: str) -> str:
    """Return a reason such that "it" can stand before it.

    Raises:
        JobDoesNotExist: no row has this id, which may be that of a pipeline without its last job.
    """
    if reason == NOT_FOUND:
        if pending.find(id) is None:
            raise JobDoesNotExist(id)
        return "is still in an outbox"
    return reason if reason.split(maxsplit=1)[0] in ("has", "waits") else f"is {reason}"


@click.command(cls=VerbCommand)
def retry(**given: Any) -> None:
    """Make jobs that have ended ready again, with fresh attempts.

    \b
    Examples: manage.py djjp retry 01a20ea1-30c5-7899-9bf1-a6a7d8c6d722
              manage.py djjp retry --state failed --queue mail --since 2h
    """
    _do(Verb.RETRY, **given)


@click.command(cls=VerbCommand)
def cancel(**given: Any) -> None:
    """Cancel jobs that have not ended; running jobs are stopped by their consumer.

    \b
    Example: manage.py djjp cancel --tag tenant-42
    """
    for alias in table.outboxes():
        with suppress(DatabaseError):  # it may be away, and not concerned
            transactions.commit_each_statement(alias)
    _do(Verb.CANCEL, **given)


@click.command(cls=VerbCommand)
def run(**given: Any) -> None:
    """Make scheduled jobs ready now.

    \b
    Example: manage.py djjp run --state scheduled --name 'shop.*'
    """
    _do(Verb.RUN, **given)


@click.command(cls=VerbCommand)
def delete(**given: Any) -> None:
    """Delete jobs that do not run, with their errors and results.

    \b
    Example: manage.py djjp delete --state failed --until 7d
    """
    _do(Verb.DELETE, **given)


def _queue_name(context: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        require_text("the queue", value, LONGEST_QUEUE)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return value


@click.command(cls=VerbCommand)
@click.argument(
    "target", metavar="QUEUE", callback=_queue_name, shell_complete=completion.queue_names
)
def move(target: str, **given: Any) -> None:
    """Move jobs that have not started to another queue.

    \b
    Example: manage.py djjp move bulk --queue mail --name shop.jobs.newsletter
    """
    _do(Verb.MOVE, target, **given)


@click.command(cls=VerbCommand)
@click.argument("priority", type=click.IntRange(-32768, 32767), metavar="N")
def priority(priority: int, **given: Any) -> None:
    """Change the priority of jobs that have not started. A number below 0 is written last, after --.

    \b
    Examples: manage.py djjp priority 10 --queue mail
              manage.py djjp priority --queue mail -- -5
    """
    _do(Verb.PRIORITY, priority, **given)
