"""Options with times: `--since` of commands that show figures and events, and numbers of seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import click

from djjp import errors
from djjp.management.group import UsageFailure
from djjp.monitoring.filters import Filter, FilterError


class Seconds(click.FloatRange):
    """A number of seconds in a range, which nan is not: click takes it for one in every range."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is no number of seconds.", param, ctx)
        return number


def since_option(default: str | None, text: str) -> Callable[[Any], Any]:
    """Return the option, whose value is a time in ISO 8601 or a span back, as in filters."""
    return click.option(
        "--since",
        metavar="TIME",
        default=default,
        show_default=default is not None,
        callback=_moment,
        help=f"{text}: 90s, 15m, 2h, 7d back, or in ISO 8601.",
    )


def _moment(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> datetime | None:
    try:
        moment = Filter.of({"since": value}).fixed(time.time()).since
    except FilterError as error:
        raise UsageFailure(errors.INVALID_FILTER, str(error)) from error
    return moment if isinstance(moment, datetime) else None
