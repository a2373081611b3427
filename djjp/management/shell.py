"""Commands as a shell calls them: their options from `call_command()` too, and errors of one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any

import click
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError
from django.db import Error as DatabaseError
from djclick.adapter import CommandAdapter, CommandRegistrator

from djjp import errors, streams
from djjp.bounds import one_line
from djjp.exceptions import JobDoesNotExist, QueueUnavailable

_EXPECTED = (ImproperlyConfigured, JobDoesNotExist, QueueUnavailable, DatabaseError)


@contextmanager
def errors_in_one_line(prefix: str = "") -> Iterator[None]:
    """Turn expected errors into an error message of one line."""
    try:
        yield
    except _EXPECTED as error:
        raise CommandError(prefix + in_one_line(str(error))) from error


def in_one_line(text: str) -> str:
    return one_line(" ".join(text.split()))


def echo(line: str = "") -> None:
    """Print a line; what could act on a terminal, such as in a name of a queue, is shown as an escape."""
    click.echo(one_line(line))


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows with aligned columns, numbers to the right."""
    rows = [[one_line(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]
    right = [all(isinstance(row[i], int) for row in rows) for i in range(len(head))]
    for row in [head, *rows]:
        cells = [
            str(cell).rjust(width) if number else str(cell).ljust(width)
            for cell, width, number in zip(row, widths, right, strict=True)
        ]
        echo("  ".join(cells).rstrip())


#: The options of each command of Django's that `call_command()` takes, and djclick does not know.
USUAL_OPTIONS = ["stdout", "stderr", "skip_checks", "no_color", "force_color"]


@contextmanager
def called(options: dict[str, Any]) -> Iterator[list[str]]:
    """Take the usual options out of those of `call_command()`, and do what they ask for while the block runs.

    Yields the words that stand for the other ones: also `--traceback`, with which errors are raised as they are.
    The process' own streams are replaced, because everything is printed there.

    Raises:
        CommandError: the command has ended with an exit code and no error.
    """
    usual = {name: options.pop(name, None) for name in USUAL_OPTIONS}
    words = ["--traceback"]
    if usual["no_color"] or usual["force_color"]:
        words.append("--no-color" if usual["no_color"] else "--color")
    with ExitStack() as stack:
        if usual["stdout"] is not None:
            stack.enter_context(redirect_stdout(usual["stdout"]))
        if usual["stderr"] is not None:
            stack.enter_context(redirect_stderr(usual["stderr"]))
        try:
            yield words
        except click.exceptions.Exit as end:
            if end.exit_code:
                text = f"the command has ended with exit code {end.exit_code}; its output has the reason"
                raise CommandError(text, returncode=end.exit_code) from end


@contextmanager
def own_streams(argv: Sequence[str]) -> Iterator[None]:
    """Let a command of a shell print every character, and end with one line where its output cannot be written."""
    streams.accept_all_characters()
    try:
        yield
    except OSError as error:
        if "--traceback" in argv:
            raise
        with suppress(OSError, ValueError):
            click.echo(f"CommandError: {in_one_line(str(error))}", err=True)
        streams.flush()
        sys.exit(errors.FAILED.exit_code)


class Command(CommandAdapter):  # type: ignore[misc]  # djclick has no types
    """A command that reads the keyword arguments of `call_command()` as the words of a command line.

    Without this, click would neither convert nor validate them.
    """

    base_stealth_options = USUAL_OPTIONS

    def run_from_argv(self, argv: list[str]) -> None:
        with own_streams(argv):
            super().run_from_argv(argv)

    def execute(self, *args: str, **kwargs: Any) -> None:
        with called(kwargs) as words:
            super().execute(*words, *self._words(kwargs), *args)

    def _words(self, options: dict[str, Any]) -> list[str]:
        by_name = {param.name: param for param in self.params}
        for option, name in self.map_names():
            by_name.setdefault(option, by_name[name])
        words: list[str] = []
        for key, value in options.items():
            words += _words(by_name[key.replace("-", "_")], value)
        return words


class command(CommandRegistrator):  # type: ignore[misc]  # noqa: N801  (used as a decorator, as djclick's)
    """Make a function a management command, as `djclick.command` does."""

    cls = Command


def _words(param: click.Parameter, value: object) -> Iterator[str]:
    """Return the words that give an option a value; a list is written with commas, None leaves it out."""
    if value is None:
        return
    option = max(param.opts, key=len)
    if isinstance(param, click.Option) and param.is_flag:
        if click.BOOL.convert(value, param, None):
            yield option
        elif param.secondary_opts:
            yield param.secondary_opts[0]
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield f"{option}={','.join(map(str, value))}"
    else:
        yield f"{option}={value}"
