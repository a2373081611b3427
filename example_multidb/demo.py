"""`make demo`: index the standard library of this Python, one job per module, and print a report.

This process enqueues the first job and shows the progress. Another process, the consumer, runs that job and the
jobs that it enqueues. At the end the demo lists the tables of both databases; it exits with 1 if a table is in
the wrong one.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import signal
import socket
import sys
import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from example_multidb.progress import Process

DATABASES = ("default", "queue")


class DemoError(Exception):
    """The demo cannot continue; the message is for the user."""


def main(argv: list[str]) -> int:
    options = parse(argv)
    set_up("site" if options.site else "settings")
    from example_multidb import report
    from example_multidb.progress import consumer

    migrate()
    enqueue(options.source)
    with consumer("--drain") as process:
        watch(process)
    report.show_modules()
    report.show_packages()
    report.show_throughput(process)
    report.show_failures()
    isolated = report.show_isolation()
    if options.site and isolated:
        serve(options.port)
    return 0 if isolated else 1


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="demo.py", description="Index Python's library with jobs on a database of their own."
    )
    parser.add_argument(
        "--source",
        type=Path,
        default=Path(sysconfig.get_paths()["stdlib"]),
        metavar="FOLDER",
        help="index the Python files in this folder (default: %(default)s)",
    )
    parser.add_argument("--site", action="store_true", help="serve a shop's dashboard afterwards")
    parser.add_argument(
        "--port", type=int, default=8000, help="port for --site (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    options.source = options.source.resolve()
    if not options.source.is_dir():
        parser.error(f"{options.source} is not a folder")
    if options.site:
        try:
            socket.create_server(("127.0.0.1", options.port)).close()
        except (OSError, OverflowError) as error:
            parser.error(
                f"nothing can listen on port {options.port} ({error}): give another --port"
            )
    return options


# Steps of the demo


def set_up(settings: str) -> None:
    """Set Django up with one of the project's settings modules, and run its checks on both databases."""
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    os.environ["DJANGO_SETTINGS_MODULE"] = f"example_multidb.project.{settings}"
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
    """Create the tables of both databases."""
    from django.core.management import call_command

    from example_multidb.report import address, heading

    heading("Two databases")
    for alias in DATABASES:
        call_command("migrate", database=alias, verbosity=0)
    print(f"  manage.py migrate                     application  {address('default')}")
    print(f"  manage.py migrate --database=queue    queue        {address('queue')}")


def enqueue(source: Path) -> None:
    """Enqueue the job that lists the modules and enqueues the other jobs."""
    from example_multidb.library.counting import modules
    from example_multidb.library.jobs import index_library
    from example_multidb.library.models import Module, Package
    from example_multidb.progress import jobs
    from example_multidb.report import heading

    heading("A pipeline: list the modules, index each, summarise each package")
    if next(modules(source), None) is None:
        raise DemoError(f"There are no Python files in {source}.")
    # Without the rows of an earlier run, which would be counted again.
    Module.objects.all().delete()
    Package.objects.all().delete()
    jobs().delete()
    began = time.perf_counter()
    index_library.run_later(str(source))
    took = 1000 * (time.perf_counter() - began)
    print(f"  source     {source}")
    print(f"  enqueued   {index_library.name} in {took:.1f} ms, by this process")


def watch(process: Process) -> None:
    """Show the progress of the consumer until it ends."""
    from example_multidb.progress import finished, show_progress, states, summary

    print(
        f"  consumer   process {process.popen.pid}: manage.py start_consumer --drain\n", flush=True
    )
    code = show_progress(process)
    counts = states()
    left = sum(counts.values()) - finished(counts)
    if code or left:
        raise DemoError(
            f"The consumer ended with code {code} and left {left} jobs.\n{process.logged()}"
        )
    print(f"  {summary(counts)}")


def serve(port: int) -> None:
    """Serve the admin, with a shop whose jobs keep coming, until Ctrl-C."""
    from django.conf import settings
    from django.contrib.auth.models import User
    from django.core.management import call_command

    from example_multidb.report import heading
    from example_multidb.traffic import traffic

    if not settings.DEBUG:
        raise DemoError("The site has a user with a public password, so it needs DEBUG = True.")
    user, _ = User.objects.get_or_create(username="admin")
    user.is_staff = user.is_superuser = True
    user.set_password("admin")
    user.save()
    heading("Dashboard")
    print(f"  http://127.0.0.1:{port}/admin/djjp/    user admin, password admin    Ctrl-C stops it")
    print(
        "  A shop's jobs keep coming. The consumer of its mail stops for a minute, again and again."
    )
    sys.stdout.flush()
    with traffic():
        call_command("runserver", f"127.0.0.1:{port}", use_reloader=False, stdout=io.StringIO())


def interrupted(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an error can contain any character
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("\nInterrupted. The consumer is stopped.", file=sys.stderr)
        sys.exit(130)
    except DemoError as error:
        print(f"\n{error}", file=sys.stderr)
        sys.exit(1)
