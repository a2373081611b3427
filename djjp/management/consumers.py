"""The command `consumers`: list them, and make requests to one."""

from __future__ import annotations

from collections.abc import Callable

import click

from djjp.durations import ago
from djjp.management import completion
from djjp.management.group import Subgroup, answer
from djjp.management.output import echo, print_table, span
from djjp.monitoring import shapes
from djjp.monitoring.consumers import ConsumerInfo, consumers
from djjp.monitoring.requests import JobStack, quiet, request_stack, stop, unquiet

_name = click.argument("name", shell_complete=completion.consumer_names)


@click.group("consumers", cls=Subgroup)
@click.pass_context
def consumers_group(context: click.Context) -> None:
    """List the consumers: the queues that they serve, their busy slots, what they run, their heartbeat.

    \b
    Examples: manage.py djjp consumers
              manage.py djjp consumers stack web1:4711:b06b94c3256ceacd
    """
    if context.invoked_subcommand is None:
        found = consumers()
        answer(
            lambda: {"consumers": [shapes.consumer(each) for each in found]}, lambda: _show(found)
        )


def _show(found: list[ConsumerInfo]) -> None:
    if not found:
        echo("no consumers; start one: manage.py start_consumer")
        return
    head = ["name", "life", "busy", "ahead", "serves", "started", "heartbeat", "release"]
    print_table(head, [row(each) for each in found], whole=["name"])
    for each in found:
        for runs in each.runs:
            echo(f"{each.name}: {runs.jobs} × {runs.name}, the first started {ago(runs.since)}")


def row(consumer: ConsumerInfo) -> list[object]:
    """Return the cells of a consumer in a table."""
    return [
        consumer.name,
        f"{consumer.life}, quiet" if consumer.quiet else str(consumer.life),
        f"{consumer.busy}/{consumer.limit}",
        consumer.claimed_ahead,
        served(consumer),
        ago(consumer.started_at),
        f"{span(consumer.heartbeat_age)} ago",
        consumer.release,
    ]


def served(consumer: ConsumerInfo) -> str:
    """Return the queues that a consumer serves, in words."""
    return "all queues" if consumer.queues is None else ", ".join(consumer.queues)


@consumers_group.command("stack")
@_name
def stack_command(name: str) -> None:
    """Show the Python stacks of the jobs that a consumer runs; calls of the project's code are marked with >.

    \b
    Example: manage.py djjp consumers stack web1:4711:b06b94c3256ceacd
    """
    found = request_stack(name)
    answer(
        lambda: {"consumer": name, "jobs": [shapes.job_stack(each) for each in found]},
        lambda: _show_stacks(found),
    )


def _show_stacks(found: list[JobStack]) -> None:
    if not found:
        echo("no job runs")
    for job in found:
        echo(f"{job.id} {job.name} in {job.queue}, started {ago(job.since)}", bold=True)
        for stack in job.stacks:
            echo(f"  {stack.kind}{f' {stack.task}' if stack.task else ''}")
            for call in stack.calls:
                mark = ">" if call.is_project else " "
                echo(f"  {mark} {call.file}:{call.line} {call.function}: {call.code}")


@consumers_group.command("quiet")
@_name
def quiet_command(name: str) -> None:
    """Have a consumer claim no further jobs; it goes on with those that it holds.

    \b
    Example: manage.py djjp consumers quiet web1:4711:b06b94c3256ceacd
    """
    _request(quiet, name, "claims no further jobs")


@consumers_group.command("unquiet")
@_name
def unquiet_command(name: str) -> None:
    """Have a quiet consumer claim jobs again.

    \b
    Example: manage.py djjp consumers unquiet web1:4711:b06b94c3256ceacd
    """
    _request(unquiet, name, "claims jobs again")


@consumers_group.command("stop")
@_name
def stop_command(name: str) -> None:
    """Stop a consumer as SIGTERM does: it claims no further jobs, and ends once its running jobs have ended.

    \b
    Example: manage.py djjp consumers stop web1:4711:b06b94c3256ceacd
    """
    _request(stop, name, "is stopped: it ends once its running jobs have ended")


def _request(verb: Callable[[str], None], name: str, done: str) -> None:
    verb(name)
    answer(lambda: {"consumer": name, "requested": verb.__name__}, lambda: echo(f"{name} {done}"))
