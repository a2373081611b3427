"""The frame of `manage.py djjp`: its group of commands, `--json`, errors and exit codes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError
from django.db import Error as DatabaseError
from djclick.adapter import GroupAdapter, GroupRegistrator

from djjp import engine, errors
from djjp.consumer.process import require_queue
from djjp.engine import sessions
from djjp.errors import ErrorKind
from djjp.exceptions import (
    ConsumerDoesNotAnswer,
    ConsumerDoesNotExist,
    JobDoesNotExist,
    JobNotRegistered,
    QueueUnavailable,
)
from djjp.management.shell import USUAL_OPTIONS, called, in_one_line, own_streams
from djjp.outbox.requirements import require_aliases

#: The environment variable by which a shell asks for completions of the words of `djjp …`.
COMPLETE_VARIABLE = "_DJJP_COMPLETE"

_JSON = "djjp.json"
_EXPECTED = (
    CommandError,
    ConsumerDoesNotAnswer,
    ConsumerDoesNotExist,
    ImproperlyConfigured,
    JobDoesNotExist,
    JobNotRegistered,
    QueueUnavailable,
    DatabaseError,
)


class Failure(CommandError):
    """The end of a command: an error of the catalogue, with its exit code."""

    def __init__(self, kind: ErrorKind, detail: str, **members: Any) -> None:
        super().__init__(in_one_line(detail), returncode=kind.exit_code)
        self.kind = kind
        self.is_answered = False  # whether the document of the command has it
        self.members = members

    def document(self) -> dict[str, Any]:
        """Return the error as a document."""
        return self.kind.document(str(self), **self.members)


class UsageFailure(click.UsageError):
    """A wrong command line whose error is another one of the catalogue than `usage`, with exit code 2."""

    def __init__(self, kind: ErrorKind, detail: str) -> None:
        super().__init__(in_one_line(detail))
        self.kind = kind


def wants_json() -> bool:
    """Return whether the command must print one JSON document."""
    return bool(click.get_current_context().meta[_JSON])


def answer(
    document: Callable[[], Mapping[str, Any]],
    show: Callable[[], None],
    *,
    but: Failure | None = None,
) -> None:
    """Print what a command found or did: its JSON document with `--json`, else a text to be read.

    Args:
        but: what is wrong nevertheless. The document has it too, it goes to stderr, and gives the exit code.
    """
    if wants_json():
        print_document({**document(), **({} if but is None else {"error": but.document()})})
    else:
        show()
    if but is not None:
        but.is_answered = True
        raise but


def print_document(document: Mapping[str, Any]) -> None:
    """Print a JSON document in one line of ASCII, in which nothing can act on a terminal."""
    click.echo(json.dumps(document, allow_nan=False))


def _json_option() -> click.Option:
    """Return the option; `Commands` has found it among the words, also of a command line that is wrong."""
    text = "Print one JSON document, and nothing else."
    return click.Option(["--json"], is_flag=True, expose_value=False, help=text)


class Subcommand(click.Command):
    """A command of the group. It needs the queue's tables, unless `needs_queue` is False."""

    def __init__(self, *args: Any, needs_queue: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.needs_queue = needs_queue
        self.params.append(_json_option())

    def invoke(self, ctx: click.Context) -> Any:
        if self.needs_queue:
            _require()
        return super().invoke(ctx)


class Subgroup(click.Group):
    """A command that has commands of its own, such as `schedules run NAME`, and lists without one."""

    command_class = Subcommand

    def __init__(self, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name, invoke_without_command=True, **kwargs)
        self.params.append(_json_option())

    def invoke(self, ctx: click.Context) -> Any:
        _require()
        return super().invoke(ctx)


def _require() -> None:
    """Check what each command on the jobs needs."""
    require_aliases()
    require_queue()


class Commands(GroupAdapter):  # type: ignore[misc]  # djclick has no types
    """The group `djjp`."""

    command_class = Subcommand
    base_stealth_options = USUAL_OPTIONS

    def execute(self, *args: str, **kwargs: Any) -> None:
        with called(kwargs) as words:
            super().execute(*words, *args, **kwargs)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if os.environ.get(COMPLETE_VARIABLE):
            kwargs |= {"prog_name": "djjp", "complete_var": COMPLETE_VARIABLE}
        return super().main(*args, **kwargs)

    def run_from_argv(self, argv: list[str]) -> None:
        try:
            with own_streams(argv):
                super().run_from_argv(argv)
        except click.Abort:  # Ctrl-C
            click.echo("stopped", err=True)
            sys.exit(errors.FAILED.exit_code)

    def parse_args(self, ctx: click.Context, args: list[str]) -> Any:
        ctx.meta[_JSON] = "--json" in args
        with _wrong_usage_as_document(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        if os.environ.get("NO_COLOR") and ctx.color is None:
            ctx.color = False
        try:
            with _wrong_usage_as_document(ctx):
                return click.Group.invoke(self, ctx)
        except _EXPECTED as error:
            failure = _as_failure(error)
            if ctx.meta[_JSON] and not failure.is_answered:
                print_document({"error": failure.document()})
            if ctx.traceback:  # type: ignore[attr-defined]  # djclick's option
                raise failure from error
            text = f"CommandError: {failure}"
            click.secho(text, fg="red", bold=True, err=True, color=ctx.color)
            ctx.exit(failure.returncode)


class commands(GroupRegistrator):  # type: ignore[misc]  # noqa: N801  (used as a decorator, as djclick's)
    """Make a function the group, as `djclick.group` does."""

    cls = Commands


@contextmanager
def _wrong_usage_as_document(ctx: click.Context) -> Iterator[None]:
    """Print the document of an error of usage, which click itself reports on stderr."""
    try:
        yield
    except click.UsageError as error:
        if ctx.meta[_JSON]:
            kind: ErrorKind = getattr(error, "kind", errors.USAGE)
            print_document({"error": kind.document(error.format_message())})
        raise


def _as_failure(error: Exception) -> Failure:
    if isinstance(error, Failure):
        return error
    kind = errors.kind_of(error)
    if isinstance(error, DatabaseError) and sessions.is_outage(engine.current().db, error):
        kind = errors.UNAVAILABLE
    return Failure(kind, ": ".join([*getattr(error, "__notes__", ()), str(error)]))
