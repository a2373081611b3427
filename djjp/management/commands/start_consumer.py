"""`manage.py start_consumer`: runs jobs until it is stopped."""

from __future__ import annotations

import sys

import djclick as click
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError
from django.db import connections

from djjp.consumer.process import consume, require
from djjp.consumer.serving import parse
from djjp.consumer.supervisor import Supervisor, child_command, own_supervisor


def _listed(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> list[str] | None:
    if value is None:
        return None
    names = list(dict.fromkeys(name for part in value.split(",") if (name := part.strip())))
    if not names:
        raise click.BadParameter("name at least one queue, as in mail,default")
    return names


def _ranked(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> list[str] | None:
    names = _listed(context, parameter, value)
    try:
        if names is not None:
            parse(names)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return names


@click.command()
@click.option(
    "--queues",
    callback=_ranked,
    metavar="NAME,…",
    help="Serve these queues only, the first of them first: mail,report.*; or by weights: mail:3,default:1.",
)
@click.option(
    "--exclude-queues",
    callback=_listed,
    metavar="NAME,…",
    help="Leave these queues out: bulk,report.*.",
)
@click.option(
    "--concurrency",
    type=click.Choice(["threads", "asyncio"]),
    help="How jobs run at the same time.",
)
@click.option(
    "--concurrency-limit",
    type=click.IntRange(1, 10_000),
    help="How many jobs run at the same time.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 1000),
    help="Start so many consumer processes, and replace those that end.",
)
@click.option("--drain", is_flag=True, help="Stop when no job is left to run.")
@click.option("--max-jobs", type=click.IntRange(1), help="Stop after this many executions.")
@click.option(
    "--max-rss",
    type=click.IntRange(1),
    metavar="MB",
    help="Stop when the process holds more than this much memory.",
)
@click.option("--reload", is_flag=True, help="For development: restart when the code changes.")
@click.pass_context
def command(
    context: click.Context,
    queues: list[str] | None,
    exclude_queues: list[str] | None,
    concurrency: str | None,
    concurrency_limit: int | None,
    processes: int | None,
    drain: bool,
    max_jobs: int | None,
    max_rss: int | None,
    reload: bool,
) -> None:
    """Run jobs until SIGTERM or SIGINT: a first one lets the running jobs end, a second one does not wait."""
    supervisor = own_supervisor()
    found = run_checks(tags=["djjp"], databases=list(connections))
    if errors := [str(message) for message in found if message.is_serious()]:
        raise CommandError("\n".join(["the queue cannot be consumed:", *errors]))
    try:
        if supervisor is None and (processes or reload):
            require()
            _close_connections()
            line = child_command("start_consumer", context.params)
            code = Supervisor(line, processes or 1, drain=drain, reload=reload).run()
        else:
            code = consume(
                queues=queues,
                exclude_queues=exclude_queues or (),
                concurrency=concurrency,
                concurrency_limit=concurrency_limit,
                drain=drain,
                max_jobs=max_jobs,
                max_rss=max_rss,
                reload=reload,
                supervisor=supervisor,
            )
    except ImproperlyConfigured as error:
        raise CommandError(str(error)) from error
    if code:
        sys.exit(code)


def _close_connections() -> None:
    """A supervisor holds none: it would be idle for as long as the supervisor lives."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()
