"""The command `token`: the tokens of the HTTP interface: `create`, `list`, `revoke`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import click

from djjp import errors, tokens
from djjp.durations import ago
from djjp.management.group import Failure, Subgroup, answer
from djjp.management.output import count, echo, print_table
from djjp.models import Scope, Token
from djjp.monitoring import shapes

_SPAN = re.compile(r"([0-9]{1,9})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@click.group("token", cls=Subgroup)
@click.pass_context
def token_group(context: click.Context) -> None:
    """List the tokens of the HTTP interface, create and revoke them.

    \b
    Examples: manage.py djjp token create shop --scope enqueue --jobs 'shop.*' --expires 90d
              manage.py djjp token revoke shop
    """
    if context.invoked_subcommand is None:
        _list()


def _expiry(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> timedelta | datetime | None:
    if value is None:
        return None
    if found := _SPAN.fullmatch(value):
        try:
            return timedelta(**{_UNITS[found[2]]: int(found[1])})
        except OverflowError:
            raise click.BadParameter(f"{value!r} ends after the year 9998") from None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is no time; give 12h or 90d from now, or 2026-01-31T12:00"
        ) from None
    return moment if moment.tzinfo is not None else moment.astimezone(UTC)


@token_group.command("create")
@click.argument("name")
@click.option(
    "--scope",
    type=click.Choice([*map(str, Scope)]),
    required=True,
    help="What it allows; each includes those before it.",
)
@click.option("--jobs", metavar="GLOB", default="*", help="Only jobs of these names: 'shop.*'.")
@click.option("--queues", metavar="GLOB", default="*", help="Only jobs in these queues.")
@click.option("--arguments", is_flag=True, help="Show arguments, results and errors, too.")
@click.option(
    "--expires", metavar="TIME", callback=_expiry, help="When it ends: 12h, 90d, or in ISO 8601."
)
def create(
    name: str,
    scope: str,
    jobs: str,
    queues: str,
    arguments: bool,
    expires: timedelta | datetime | None,
) -> None:
    """Create a token and print it; it is never shown again.

    \b
    Example: manage.py djjp token create shop --scope enqueue --jobs 'shop.*' --expires 90d
    """
    options = {"jobs": jobs, "queues": queues}
    try:
        made, text = tokens.create(name, scope, **options, arguments=arguments, expires=expires)
    except tokens.TokenNameTaken as error:
        raise Failure(errors.CONFLICT, str(error)) from error
    except ValueError as error:
        raise click.UsageError(str(error)) from error

    def show() -> None:
        echo(text)
        click.echo("this is the only time that it is shown", err=True)

    answer(lambda: {**shapes.token(made), "token": text}, show)


@token_group.command("list")
def list_tokens() -> None:
    """List the tokens: their scopes, when they end, and when they were last used.

    \b
    Example: manage.py djjp token list
    """
    _list()


@token_group.command("revoke")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def revoke(names: Sequence[str]) -> None:
    """Revoke tokens: they allow nothing from now on.

    \b
    Example: manage.py djjp token revoke shop
    """
    unknown = [name for name in dict.fromkeys(names) if not tokens.revoke(name)]
    revoked = [name for name in dict.fromkeys(names) if name not in unknown]
    but = None
    if unknown:
        text = f"there is no token {', '.join(map(repr, unknown))}"
        but = Failure(errors.TOKEN_NOT_FOUND, text, unknown=unknown)

    def show() -> None:
        for name in revoked:
            echo(f"{name} is revoked")

    answer(lambda: {"revoked": revoked}, show, but=but)


def _list() -> None:
    found = tokens.tokens()

    def show() -> None:
        if found:
            head = ["name", "scope", "jobs", "queues", "arguments", "created", "expires", "used"]
            print_table(head, [_row(each) for each in found], whole=["name"])
        else:
            echo(count(0, "token"))

    answer(lambda: {"tokens": [shapes.token(each) for each in found]}, show)


def _row(token: Token) -> list[object]:
    return [
        token.name,
        token.scope,
        token.jobs,
        token.queues,
        "yes" if token.arguments else "no",
        ago(token.created_at),
        "expired" if tokens.has_expired(token) else ago(token.expires_at),
        ago(token.last_used_at),
    ]
