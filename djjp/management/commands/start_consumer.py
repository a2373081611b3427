"""`manage.py start_consumer`: runs jobs until it is stopped."""

from __future__ import annotations

import djclick as click
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError
from django.db import connections

from djjp.consumer.process import consume


def _names(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> list[str] | None:
    if value is None:
        return None
    names = [name for part in value.split(",") if (name := part.strip())]
    if not names:
        raise click.BadParameter("name at least one queue, as in --queues mail,default")
    return list(dict.fromkeys(names))


@click.command()
@click.option("--queues", callback=_names, metavar="NAME,…", help="Serve these queues only.")
@click.option(
    "--concurrency-limit",
    type=click.IntRange(1, 10_000),
    help="How many jobs run at the same time.",
)
@click.option("--drain", is_flag=True, help="Stop when no job is left to run.")
@click.option("--max-jobs", type=click.IntRange(1), help="Stop after this many executions.")
def command(
    queues: list[str] | None, concurrency_limit: int | None, drain: bool, max_jobs: int | None
) -> None:
    """Run jobs until SIGTERM or SIGINT: a first one lets the running jobs end, a second one does not wait."""
    found = run_checks(tags=["djjp"], databases=list(connections))
    if errors := [str(message) for message in found if message.is_serious()]:
        raise CommandError("\n".join(["the queue cannot be consumed:", *errors]))
    try:
        consume(queues=queues, concurrency_limit=concurrency_limit, drain=drain, max_jobs=max_jobs)
    except ImproperlyConfigured as error:
        raise CommandError(str(error)) from error
