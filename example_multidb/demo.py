"""`make demo`: index the library of the Python that runs this, one job per module.

This process enqueues the jobs and watches; another one, the consumer, runs them. At the end both
databases are opened to show which tables each one holds: exit code 1 if they are not apart.
"""

from __future__ import annotations

import argparse
import io
import platform
import shutil
import signal
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from djjp.models import Job

HERE = Path(__file__).resolve().parent
MANAGE = HERE / "manage.py"
DATABASES = ("default", "queue")
SHOWN_FAILURES = 20
INDENT = " " * 6


class DemoError(Exception):
    """What went wrong, in words for whoever runs the demo."""


def main(argv: list[str]) -> int:
    options = parse(argv)
    set_up()
    migrate()
    calls = enqueue(options.source)
    with consumer() as process:
        watch(process, len(calls))
    show_modules()
    show_throughput(process)
    show_failures(calls)
    apart = show_isolation()
    if options.site and apart:
        serve(options.port)
    return 0 if apart else 1


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="demo.py", description="Index Python's library with jobs on a database of their own."
    )
    parser.add_argument(
        "--source",
        type=Path,
        default=Path(sysconfig.get_paths()["stdlib"]),
        metavar="FOLDER",
        help="index the Python files below this folder (default: %(default)s)",
    )
    parser.add_argument("--site", action="store_true", help="serve the admin afterwards")
    parser.add_argument("--port", type=int, default=8000, help="for --site (default: %(default)s)")
    options = parser.parse_args(argv)
    options.source = options.source.resolve()
    if not options.source.is_dir():
        parser.error(f"{options.source} is no folder")
    return options


# What the demo does


def set_up() -> None:
    """Make Django ready, and let its checks say what is wrong with the databases."""
    import os

    sys.path[0] = str(HERE.parent)
    os.environ["DJANGO_SETTINGS_MODULE"] = "example_multidb.project.settings"
    try:
        import django
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import CommandError, call_command
    except ModuleNotFoundError as error:
        raise DemoError(f"{error}: `make demo` installs what the demo needs.") from error
    try:
        django.setup()
        call_command("check", databases=DATABASES, stdout=io.StringIO())
    except (CommandError, ImproperlyConfigured, ValueError) as error:
        raise DemoError(str(error)) from error
    print(f"djjp demo: Python {platform.python_version()}, Django {django.__version__}")


def migrate() -> None:
    """Make the tables of both databases."""
    from django.core.management import call_command

    heading("Two databases")
    for alias in DATABASES:
        call_command("migrate", database=alias, verbosity=0)
    print(f"  manage.py migrate                     application  {place('default')}")
    print(f"  manage.py migrate --database=queue    queue        {place('queue')}")


def enqueue(source: Path) -> dict[UUID, str]:
    """Enqueue a job per module; returns the modules' names by the ids of their jobs."""
    from djjp import run_many
    from example_multidb.library.jobs import index_module, modules
    from example_multidb.library.models import Module

    heading("One job per module")
    found = list(modules(source))
    if not found:
        raise DemoError(f"There are no Python files below {source}.")
    # A run starts clean: the rows of an earlier one would be counted again.
    Module.objects.all().delete()
    jobs().delete()
    began = time.perf_counter()
    handles = run_many(index_module.bind(name, path) for name, path in found)
    took = time.perf_counter() - began
    print(f"  source     {source}")
    print(f"  enqueued   {len(handles):,} jobs in {took:.2f} s, by this process")
    return {handle.id: name for handle, (name, _) in zip(handles, found, strict=True)}


@dataclass
class Process:
    """The consumer: when it was started, in seconds since the epoch, and what it logs."""

    popen: subprocess.Popen[bytes]
    started: float
    log: IO[bytes]

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read().decode(errors="replace")


@contextmanager
def consumer() -> Iterator[Process]:
    """Start `manage.py start_consumer --drain`; whatever happens in the block, it ends with it."""
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, str(MANAGE), "start_consumer", "--drain"]
        started = time.time()
        # In a process group of its own: Ctrl-C comes to this process alone, which passes it on once.
        popen = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
        )
        try:
            yield Process(popen, started, log)
        finally:
            end(popen)


def end(popen: subprocess.Popen[bytes]) -> None:
    """Let a consumer end its running jobs and give the others back; the impatient get it killed."""
    if popen.poll() is not None:
        return
    popen.terminate()
    try:
        popen.wait(timeout=30)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        popen.kill()
        popen.wait()


def watch(process: Process, total: int) -> None:
    """Show how far the consumer is, until it ends."""
    print(f"  consumer   process {process.popen.pid}: manage.py start_consumer --drain\n")
    bar = Bar(total)
    while (code := process.popen.poll()) is None:
        bar.show(states())
        time.sleep(0.1)
    bar.show(states(), last=True)
    left = total - finished(states())
    if code or left:
        raise DemoError(
            f"The consumer ended with code {code} and left {left} jobs.\n{process.said()}"
        )


def show_modules() -> None:
    from django.db.models import Sum

    from example_multidb.library.models import Module

    heading("The ten largest modules")
    columns = ("lines", "classes", "functions", "docstrings")
    rows = list(Module.objects.order_by("-lines", "name").values("name", *columns)[:10])
    sums = Module.objects.aggregate(**{column: Sum(column, default=0) for column in columns})
    rows.append({"name": f"all {Module.objects.count():,}", **sums})
    width = max(len(row["name"]) for row in rows)
    print(f"  {'module':{width}}" + "".join(f"{column:>12}" for column in columns))
    for row in rows:
        print(f"  {row['name']:{width}}" + "".join(f"{row[column]:12,}" for column in columns))


def show_throughput(process: Process) -> None:
    """From the jobs' own times: the consumer's start-up comes before the first of them."""
    from django.db.models import Count, Max, Min

    from djjp.conf import current

    heading("Throughput")
    ran = jobs().aggregate(count=Count("id"), first=Min("started_at"), last=Max("finished_at"))
    start_up = ran["first"].timestamp() - process.started
    took = (ran["last"] - ran["first"]).total_seconds()
    print(f"  consumer start-up   {start_up:.2f} s until its first job began")
    print(
        f"  {ran['count']:,} jobs in {took:.2f} s = {ran['count'] / max(took, 1e-6):,.0f} jobs/s, "
        f"{current().concurrency_limit} at once"
    )


def show_failures(calls: Mapping[UUID, str]) -> None:
    from djjp import get_job

    failed = [job.id for job in jobs().filter(state="failed").order_by("id")]
    heading(f"Failed jobs: {len(failed)}")
    if not failed:
        print("  None. (What fails here are files that are no valid Python; some systems")
        print("  package Python without its own tests, which hold them.)")
        return
    for id in failed[:SHOWN_FAILURES]:
        error = get_job(id).errors[-1]
        print(f"  {calls[id]}")
        print(f"{INDENT}{shorten(f'{short_name(error.exception_class)}: {error.message}')}")
    if len(failed) > SHOWN_FAILURES:
        print(f"  and {len(failed) - SHOWN_FAILURES} more")
    print("  Their tracebacks are in the queue, and in the admin: make demo-site")


def show_isolation() -> bool:
    """List the tables of both databases; returns whether each holds only its own."""
    heading("Isolation: the tables that each database really has")
    application, queue = tables("default"), tables("queue")
    for alias, found in (("default", application), ("queue", queue)):
        print(f"  {place(alias)}")
        print(textwrap.fill(", ".join(found), 84, initial_indent=INDENT, subsequent_indent=INDENT))
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
        print("\n  NOT APART: " + "; ".join(problems))
        return False
    print("\n  Apart: no table of djjp in the application's database, and nothing in the queue's")
    print("  but djjp's tables and the list of migrations that Django keeps in every database.")
    return True


def serve(port: int) -> None:
    """Serve the admin until Ctrl-C."""
    from django.conf import settings
    from django.contrib.auth.models import User
    from django.core.management import call_command

    if not settings.DEBUG:
        raise DemoError("The site has a user whose password everybody knows: only with DEBUG on.")
    user, _ = User.objects.get_or_create(username="admin")
    user.is_staff = user.is_superuser = True
    user.set_password("admin")
    user.save()
    heading("Admin")
    print(
        f"  http://127.0.0.1:{port}/admin/    user admin, password admin    Ctrl-C ends it",
        flush=True,
    )
    call_command("runserver", f"127.0.0.1:{port}", use_reloader=False, stdout=io.StringIO())


# What it looks at


def jobs() -> QuerySet[Job]:
    """The demo's jobs, and no others: the queue may be one that is used for more."""
    from djjp.models import Job
    from example_multidb.library.jobs import index_module

    return Job.objects.filter(name=index_module.name)


def states() -> dict[str, int]:
    """How many jobs are in each state."""
    from django.db.models import Count

    return dict(jobs().values_list("state").annotate(Count("id")))


def finished(counts: Mapping[str, int]) -> int:
    return counts.get("succeeded", 0) + counts.get("failed", 0)


def tables(alias: str) -> list[str]:
    """The tables of a database, asked of the database itself and not of Django's models."""
    from django.db import connections

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
    return table.startswith("djjp")


def place(alias: str) -> str:
    """Where a database is: a file, or a server without the password to it."""
    from django.db import connections

    settings = connections[alias].settings_dict
    if connections[alias].vendor == "sqlite":
        return str(Path(settings["NAME"]).resolve())
    host = settings["HOST"] or settings["OPTIONS"].get("host") or "local socket"
    return f"PostgreSQL database {settings['NAME']!r} on {host}"


# How it looks


def heading(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


def shorten(text: str) -> str:
    """A text of any length on one line."""
    return textwrap.shorten(text, 110, placeholder=" ...")


def short_name(exception_class: str) -> str:
    return exception_class.removeprefix("builtins.")


class Bar:
    """A progress bar on a terminal; anywhere else a line for each quarter."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._terminal = sys.stdout.isatty()
        self._quarters = 0
        self._began: float | None = None

    def show(self, counts: Mapping[str, int], *, last: bool = False) -> None:
        done, failed = finished(counts), counts.get("failed", 0)
        text = f"{done:,} of {self._total:,} jobs" + (f", {failed} failed" if failed else "")
        if self._terminal:
            width = max(10, min(40, shutil.get_terminal_size().columns - len(text) - 16))
            full = width * done // self._total
            bar = f"[{'#' * full}{'.' * (width - full)}] {100 * done // self._total:3} %"
            # \033[K clears what a longer line has left behind.
            print(f"\r  {bar}  {text}\033[K", end="\n" if last else "", flush=True)
        elif (quarters := 4 * done // self._total) > self._quarters:
            self._quarters = quarters
            print(f"  {25 * quarters:3} %  {text}", flush=True)


def interrupted(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a reason may quote any character
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("\nInterrupted. Nothing is left running.", file=sys.stderr)
        sys.exit(130)
    except DemoError as error:
        print(f"\n{error}", file=sys.stderr)
        sys.exit(1)
