"""The command `enqueue`: one call of a registered job, its arguments given as JSON."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click

from djjp import bounds, codec, errors
from djjp.exceptions import EncodeError, PayloadTooLarge
from djjp.jobs import RegisteredJob, registry
from djjp.management import completion
from djjp.management.group import Failure, Subcommand, UsageFailure, answer
from djjp.management.output import echo
from djjp.monitoring import shapes
from djjp.monitoring.one_job import one_job

_SPAN = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def _later(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    """Read a time: a span from now, as 90s, 15m, 2h, 7d, or in ISO 8601."""
    if value is None:
        return None
    if found := _SPAN.fullmatch(value):
        return float(found[1]) * _SECONDS[found[2]]
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is no time; give 90s, 15m, 2h or 7d from now, or 2026-01-31T12:00"
        ) from None


def _json_of(kind: type) -> Any:
    """Return a callback that reads JSON of one type, and leaves it as text for the codec."""

    def read(context: click.Context, parameter: click.Parameter, value: str) -> str:
        try:
            fits = type(json.loads(value)) is kind
        except (ValueError, RecursionError) as error:
            raise click.BadParameter(f"{value!r} is no JSON: {error}") from error
        if not fits:
            form = '[1, "a"]' if kind is list else '{"b": 2}'
            raise click.BadParameter(f"{value!r} is no JSON {_NAMES[kind]}, as in '{form}'")
        return value

    return read


_NAMES: dict[type, str] = {list: "list", dict: "object"}


@click.command(cls=Subcommand)
@click.argument("name", shell_complete=completion.job_names)
@click.option("--args", metavar="JSON", default="[]", callback=_json_of(list), help="A list.")
@click.option("--kwargs", metavar="JSON", default="{}", callback=_json_of(dict), help="An object.")
@click.option("--queue", metavar="NAME", shell_complete=completion.queue_names)
@click.option("--priority", type=int, metavar="N", help="Jobs of higher priority start first.")
@click.option(
    "--run-after",
    metavar="TIME",
    callback=_later,
    help="Start not before this: 90s, 15m, 2h, 7d from now, or a time in ISO 8601.",
)
@click.option("--unique-key", metavar="KEY", help="No second job with it while one is live.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Can be given several times.")
def enqueue(name: str, args: str, kwargs: str, tags: Sequence[str], **options: Any) -> None:
    """Enqueue a call of a registered job; print its id. Values that JSON lacks are written as in docs/jobs.md.

    \b
    Example: manage.py djjp enqueue shop.jobs.add --args '[1]' --kwargs '{"b": 2}'
    """
    job = _registered(name)
    try:
        positional, named = codec.decode_arguments(f'{{"args":{args},"kwargs":{kwargs}}}')
        changed = job.using(tags=tags, **options)
        handle = changed.run_later(*positional, **named)
    except PayloadTooLarge as error:
        raise UsageFailure(errors.PAYLOAD_TOO_LARGE, str(error)) from error
    except (EncodeError, ValueError, TypeError) as error:
        raise UsageFailure(errors.INVALID_JOB, str(error)) from error
    answer(
        lambda: shapes.whole_job(*one_job(handle.id)),
        lambda: echo(f"{handle.id} is {handle.state}"),
    )


def _registered(name: str) -> RegisteredJob[..., Any]:
    job = registry.find(name)
    if job is None:
        close = difflib.get_close_matches(name, registry.names(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else "see docs/jobs.md for where jobs belong"
        raise Failure(
            errors.NOT_REGISTERED,
            f"no job named {bounds.one_line(name)!r} is registered here; {hint}",
        )
    return job
