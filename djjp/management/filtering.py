"""Filters as options: `--state failed --queue mail --since 2h`."""

from __future__ import annotations

from typing import Any

import click

from djjp import errors
from djjp.management import completion
from djjp.management.group import Subcommand, UsageFailure
from djjp.monitoring.filters import KEYS, Filter, FilterError

_HELP: dict[str, tuple[str, str, completion.Completer | None]] = {
    "state": ("STATE", "Jobs in this state; several with commas.", completion.states),
    "queue": ("NAME", "Jobs in this queue.", completion.queue_names),
    "name": ("GLOB", "Jobs of this name, as in 'shop.*'.", completion.job_names),
    "exception": ("CLASS", "Jobs with an attempt that failed with this exception.", None),
    "tag": ("TAG", "Jobs with this tag.", None),
    "since": ("TIME", "Jobs enqueued since: 90s, 15m, 2h, 7d back, or in ISO 8601.", None),
    "until": ("TIME", "Jobs enqueued before this time.", None),
    "pipeline": ("ID", "Jobs of this pipeline.", None),
    "consumer": (
        "NAME",
        "Jobs that this consumer runs, or ran last.",
        completion.consumer_names,
    ),
    "unique_key": ("KEY", "Jobs with this unique key.", None),
    "attempts": ("N", "Jobs with this number of attempts: 3, or '>3'.", None),
}


class FilteredCommand(Subcommand):
    """A command that takes the jobs that match a filter, as its parameter `wanted`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params[:0] = [_option(key) for key in KEYS]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        given = {key: ctx.params.pop(key, None) for key in KEYS}
        if not ctx.resilient_parsing:
            ctx.params["wanted"] = _filter(given)
        return rest


def _option(key: str) -> click.Option:
    metavar, text, completer = _HELP[key]
    return click.Option(
        [f"--{key.replace('_', '-')}"],
        multiple=True,  # also where one is allowed: click would ignore all but the last
        metavar=metavar,
        help=text,
        shell_complete=completer,
    )


def _filter(given: dict[str, Any]) -> Filter:
    try:
        return Filter.of(given)
    except FilterError as error:
        raise UsageFailure(errors.INVALID_FILTER, str(error)) from error
