"""`make demo`: index the library of the Python that runs this, one job per module, and report on it.

This process enqueues the first job and watches; another one, the consumer, runs it and what comes of it.
At the end both databases are opened to show which tables each one holds: exit code 1 if they are not apart.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import signal
import sys
import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from example_multidb.progress import Process

DATABASES = ("default", "queue")


class DemoError(Exception):
    """What went wrong, in words for whoever runs the demo."""


def main(argv: list[str]) -> int:
    options = parse(argv)
    set_up()
    from example_multidb import report
    from example_multidb.progress import consumer

    migrate()
    enqueue(options.source)
    with consumer() as process:
        watch(process)
    report.show_modules()
    report.show_packages()
    report.show_throughput(process)
    report.show_failures()
    apart = report.show_isolation()
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
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
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

    from example_multidb.report import heading, place

    heading("Two databases")
    for alias in DATABASES:
        call_command("migrate", database=alias, verbosity=0)
    print(f"  manage.py migrate                     application  {place('default')}")
    print(f"  manage.py migrate --database=queue    queue        {place('queue')}")


def enqueue(source: Path) -> None:
    """Enqueue the job that lists the modules and enqueues the rest."""
    from example_multidb.library.counting import modules
    from example_multidb.library.jobs import index_library
    from example_multidb.library.models import Module, Package
    from example_multidb.progress import jobs
    from example_multidb.report import heading

    heading("A pipeline: list the modules, index each, summarise each package")
    if next(modules(source), None) is None:
        raise DemoError(f"There are no Python files below {source}.")
    # A run starts clean: the rows of an earlier one would be counted again.
    Module.objects.all().delete()
    Package.objects.all().delete()
    jobs().delete()
    began = time.perf_counter()
    index_library.run_later(str(source))
    took = 1000 * (time.perf_counter() - began)
    print(f"  source     {source}")
    print(f"  enqueued   {index_library.name} in {took:.1f} ms, by this process")


def watch(process: Process) -> None:
    """Show how far the consumer is, until it ends."""
    from example_multidb.progress import Bar, finished, states

    print(f"  consumer   process {process.popen.pid}: manage.py start_consumer --drain\n")
    bar = Bar()
    while (code := process.popen.poll()) is None:
        bar.show(states())
        time.sleep(0.1)
    bar.show(states(), last=True)
    left = sum(states().values()) - finished(states())
    if code or left:
        raise DemoError(
            f"The consumer ended with code {code} and left {left} jobs.\n{process.said()}"
        )


def serve(port: int) -> None:
    """Serve the admin until Ctrl-C."""
    from django.conf import settings
    from django.contrib.auth.models import User
    from django.core.management import call_command

    from example_multidb.report import heading

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
