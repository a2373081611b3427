"""Commands for one job: `show`, `explain`."""

from __future__ import annotations

import json
from typing import Any

import click

from djjp.durations import ago
from djjp.management import completion
from djjp.management.group import Subcommand, answer
from djjp.management.output import echo
from djjp.models import Job
from djjp.monitoring import shapes
from djjp.monitoring.explain import explain as explain_job
from djjp.monitoring.one_job import JobInFull, one_job


@click.command(cls=Subcommand)
@click.argument("id", shell_complete=completion.job_ids)
def show(id: str) -> None:
    """Show one job: its times, its arguments and result, its errors with their tracebacks.

    \b
    Example: manage.py djjp show 01a20ea1-30c5-7899-9bf1-a6a7d8c6d722
    """
    found = one_job(id)
    answer(lambda: shapes.whole_job(*found), lambda: _show(found))


def _show(found: JobInFull) -> None:
    row, shape = found.row, shapes.whole_job(*found)
    for label, value in _facts(row, shape):
        if value not in (None, "", []):
            echo(f"{label + ':':<12} {value}")
    for error in found.errors:
        echo()
        echo(
            f"attempt {error.number} failed {ago(error.finished_at)} on {error.consumer}", bold=True
        )
        text = error.traceback or f"{error.exception_class}: {error.message}"
        for line in text.rstrip("\n").split("\n"):
            echo(f"    {line}")


def _facts(row: Job, shape: shapes.Document) -> list[tuple[str, Any]]:
    """Return what is known of a job, each with its label; an empty value is not shown."""
    progress = shape["progress"]
    return [
        ("id", row.pk),
        ("name", row.name),
        ("state", row.state + (", cancel requested" if _is_cancelling(row) else "")),
        ("reason", row.reason),
        ("queue", row.queue),
        ("priority", row.priority),
        ("attempts", row.attempts),
        ("rescues", row.rescues or None),
        ("created", ago(row.created_at)),
        ("run after", row.run_after and ago(row.run_after)),
        ("started", row.started_at and ago(row.started_at)),
        ("finished", shape["finished_at"] and ago(row.finished_at)),
        ("expires", row.expires_at and ago(row.expires_at)),
        ("consumer", row.consumer),
        ("progress", progress and f"{progress['done']} of {progress['total'] or '?'}"),
        ("tags", ", ".join(shape["tags"])),
        ("unique key", row.unique_key),
        ("pipeline", row.pipeline),
        ("args", json.dumps(shape["args"], ensure_ascii=False)),
        ("kwargs", json.dumps(shape["kwargs"], ensure_ascii=False)),
        ("result", row.result and json.dumps(shape["result"], ensure_ascii=False)),
    ]


def _is_cancelling(row: Job) -> bool:
    return bool(row.cancel_requested and row.state == "running")


@click.command(cls=Subcommand)
@click.argument("id", shell_complete=completion.job_ids)
def explain(id: str) -> None:
    """Show why a job does not run, or what has become of it; each cause with the command that puts it right.

    \b
    Example: manage.py djjp explain 01a20ea1-30c5-7899-9bf1-a6a7d8c6d722
    """
    found = explain_job(id)

    def show() -> None:
        echo(
            f"{found.job.pk} {found.job.name} in {found.job.queue} is {found.job.state}", bold=True
        )
        for cause in found.causes:
            echo(f"{cause.code}: {cause.sentence}")

    answer(lambda: shapes.explanation(*found), show)
