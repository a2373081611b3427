"""The report at the end of the demo: modules, packages, throughput, failures, and the tables of both databases.

This module can be imported only after Django is set up.
"""

from __future__ import annotations

import json
import sqlite3
import textwrap
from contextlib import closing
from pathlib import Path
from typing import Any

from django.db import connections
from django.db.models import Count, Max, Min, Sum

from djjp import get_job
from djjp.conf import current
from example_multidb.library.models import Module, Package
from example_multidb.progress import Process, jobs

SHOWN_FAILURES = 20
INDENT = " " * 6


def heading(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


def show_modules() -> None:
    heading("The ten largest modules")
    columns = ("lines", "classes", "functions", "docstrings")
    rows = list(Module.objects.order_by("-lines", "name").values("name", *columns)[:10])
    sums = Module.objects.aggregate(**{column: Sum(column, default=0) for column in columns})
    rows.append({"name": f"all {Module.objects.count():,}", **sums})
    width = max(len(row["name"]) for row in rows)
    print(f"  {'module':{width}}" + "".join(f"{column:>12}" for column in columns))
    for row in rows:
        print(f"  {row['name']:{width}}" + "".join(f"{row[column]:12,}" for column in columns))


def show_packages() -> None:
    """Print the report that the last steps have stored."""
    summarised = Package.objects.filter(reason="").order_by("-lines", "name")
    heading(f"The report: {len(summarised)} packages")
    width = max([len("package"), *(len(package.name) for package in summarised[:10])])
    print(f"  {'package':{width}}{'modules':>12}{'lines':>12}")
    for package in summarised[:10]:
        print(f"  {package.name:{width}}{package.modules:12,}{package.lines:12,}")
    for package in Package.objects.exclude(reason="").order_by("name"):
        print(f"  {package.name} has no summary, because one of its modules failed:")
        print(wrapped(textwrap.shorten(package.reason, 240, placeholder=" ...")))


def show_throughput(process: Process) -> None:
    """Print the rate from the jobs' own times, apart from the start-up of the consumer."""
    heading("Throughput")
    ran = (
        jobs()
        .exclude(started_at=None)
        .aggregate(count=Count("id"), first=Min("started_at"), last=Max("finished_at"))
    )
    start_up = ran["first"].timestamp() - process.started
    took = (ran["last"] - ran["first"]).total_seconds()
    print(f"  consumer start-up   {start_up:.2f} s until its first job started")
    print(
        f"  {ran['count']:,} jobs in {took:.2f} s = {ran['count'] / max(took, 1e-6):,.0f} jobs/s, "
        f"{current().concurrency_limit} at once"
    )


def show_failures() -> None:
    failed = list(jobs().filter(state="failed").order_by("id"))
    heading(f"Failed jobs: {len(failed)}")
    if not failed:
        print("  None. (Files that are not valid Python fail. They are in Python's own tests,")
        print("  which some systems do not install.)")
        return
    for job in failed[:SHOWN_FAILURES]:
        error = get_job(job.id).errors[-1]
        print(f"  {json.loads(job.arguments)['args'][0]}")
        print(f"{INDENT}{shorten(f'{short_name(error.exception_class)}: {error.message}')}")
    if len(failed) > SHOWN_FAILURES:
        print(f"  and {len(failed) - SHOWN_FAILURES} more")
    print("  Their tracebacks are in the queue, and in the admin: make demo-site")


def show_isolation() -> bool:
    """List the tables of both databases; return whether each contains only its own."""
    heading("Isolation: the tables in each database")
    application, queue = tables("default"), tables("queue")
    for alias, found in (("default", application), ("queue", queue)):
        print(f"  {address(alias)}")
        print(wrapped(", ".join(found)))
    problems = [f"{name} is in the application's database" for name in application if ours(name)]
    problems += [
        f"{name} is in the queue's database"
        for name in queue
        if not ours(name) and name != "django_migrations"
    ]
    for side, names in (("application", application), ("queue", queue)):
        if not names:
            problems.append(f"the {side}'s database has no tables")
    if problems:
        print("\n  NOT ISOLATED: " + "; ".join(problems))
        return False
    print(
        "\n  Isolated: the application's database has no table of djjp, and the queue's database has"
    )
    print("  only djjp's tables and the list of migrations that Django keeps in every database.")
    return True


# Databases and texts


def tables(alias: str) -> list[str]:
    """Return the tables of a database, read from the database itself, not from Django's models."""
    connection = connections[alias]
    if connection.vendor == "sqlite":
        file = Path(connection.settings_dict["NAME"]).resolve()
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as opened:
            rows: list[Any] = opened.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND substr(name, 1, 7) <> 'sqlite_'"
            ).fetchall()
    else:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT tablename FROM pg_catalog.pg_tables "
                "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
            )
            rows = cursor.fetchall()
    return sorted(name for (name,) in rows)


def ours(table: str) -> bool:
    # An outbox is on purpose in the application's database: `make demo-site` has one.
    return table.startswith("djjp") and table != "djjp_outbox"


def address(alias: str) -> str:
    """Return the path of a database's file, or its name and server without the password."""
    settings = connections[alias].settings_dict
    if connections[alias].vendor == "sqlite":
        return str(Path(settings["NAME"]).resolve())
    host = settings["HOST"] or settings["OPTIONS"].get("host") or "local socket"
    return f"PostgreSQL database {settings['NAME']!r} on {host}"


def shorten(text: str) -> str:
    """Shorten a text to one line."""
    return textwrap.shorten(text, 110, placeholder=" ...")


def wrapped(text: str) -> str:
    return textwrap.fill(text, 84, initial_indent=INDENT, subsequent_indent=INDENT)


def short_name(exception_class: str) -> str:
    return exception_class.removeprefix("builtins.")
