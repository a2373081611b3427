"""`manage.py start_consumer`: run jobs until stopped."""

from __future__ import annotations

import os
import sys

import djclick as click
from django.core.checks import run_checks
from django.core.management import CommandError
from django.db import connections

from djjp import conf, streams
from djjp.consumer.console import Console, queues_in_words
from djjp.consumer.health import Health
from djjp.consumer.process import consume, own_health, require
from djjp.consumer.serving import parse
from djjp.consumer.supervision import child_command, is_program, own_supervision
from djjp.consumer.supervisor import Supervisor
from djjp.management.shell import command as management_command
from djjp.management.shell import errors_in_one_line, in_one_line

_REFUSAL = "the consumer does not start: "


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


@management_command()
@click.option(
    "--queues",
    callback=_ranked,
    metavar="NAME,…",
    help="Serve only these queues, in this order: mail,report.*; or by weights: mail:3,default:1.",
)
@click.option(
    "--exclude-queues",
    callback=_listed,
    metavar="NAME,…",
    help="Do not serve these queues: bulk,report.*.",
)
@click.option(
    "--concurrency",
    type=click.Choice(["threads", "asyncio"]),
    help="How jobs run at the same time.",
)
@click.option(
    "--concurrency-limit",
    type=click.IntRange(1, 10_000),
    help="The number of jobs that run at the same time.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Start N consumer processes, and replace each that ends.",
)
@click.option("--drain", is_flag=True, help="Stop when no job is left to run.")
@click.option("--max-jobs", type=click.IntRange(1), metavar="N", help="Stop after N executions.")
@click.option(
    "--max-rss",
    type=click.IntRange(1),
    metavar="MB",
    help="Stop when the process uses more memory than this.",
)
@click.option(
    "--health-file",
    type=click.Path(dir_okay=False),
    metavar="PATH",
    help="Touch this file as long as the consumer lives; it is removed at the end.",
)
@click.option(
    "--health-port",
    type=click.IntRange(1, 65535),
    metavar="N",
    help="Answer /live and /ready over HTTP on this port.",
)
@click.option(
    "--health-host", metavar="ADDRESS", help="The address of the health port; by default all."
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
    health_file: str | None,
    health_port: int | None,
    health_host: str | None,
    reload: bool,
) -> None:
    """Run jobs until SIGTERM or SIGINT: the first signal lets running jobs end, the second releases them."""
    supervision = own_supervision()
    if problems := _problems():
        raise CommandError(_REFUSAL + problems)
    try:
        with (
            errors_in_one_line(_REFUSAL),
            own_health(supervision, file=health_file, host=health_host, port=health_port) as health,
        ):
            if supervision is None and (processes or reload):
                require()
                _close_connections()
                code = _supervise(context, processes or 1, health)
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
                    supervision=supervision,
                    verbosity=context.verbosity,
                    health=health,
                    ends_process=is_program("start_consumer"),
                )
    finally:
        streams.flush()
    if code:
        sys.exit(code)


def _supervise(context: click.Context, processes: int, health: Health) -> int:
    """Run a supervisor with the options of the command and return the exit code."""
    options, verbosity = context.params, context.verbosity
    console = Console(verbosity)
    line = child_command("start_consumer", options | {"verbosity": verbosity})
    with console.shown_log():
        console.greet(
            f"supervisor {os.getpid()} of {processes} consumer{'' if processes == 1 else 's'}",
            queues_in_words(options["queues"], options["exclude_queues"] or ()),
            options["concurrency"],
            options["concurrency_limit"],
        )
        return Supervisor(
            line,
            processes,
            drain=options["drain"],
            reload=options["reload"],
            console=console,
            health=health,
        ).run()


def _problems() -> str:
    """Return the errors that the checks find, each in a line."""
    # Only the queue's database is connected: a consumer can start while an application's does not answer.
    found = run_checks(tags=["djjp"], databases=[conf.db_name()])
    return "\n".join(
        in_one_line(f"({message.id}) {message.msg}. HINT: {message.hint}")
        for message in found
        if message.is_serious()
    )


def _close_connections() -> None:
    """Close all connections: a supervisor uses none, and they would stay idle as long as it lives."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()
