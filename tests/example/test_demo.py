"""`make demo`, run as a newcomer runs it, on a small library."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.support.databases import QUEUES
from tests.support.processes import eventually

pytestmark = pytest.mark.end_to_end

ROOT = Path(__file__).parents[2]
SUCCEEDED = "SELECT count(*) FROM djjp_job WHERE name = 'shop.send_receipt' AND state = 'succeeded'"


class Demo:
    """A copy of the example, with new databases and a library of five files to index."""

    def __init__(self, folder: Path) -> None:
        self.example = folder / "example_multidb"
        shutil.copytree(
            ROOT / "example_multidb", self.example, ignore=shutil.ignore_patterns("*.sqlite3*")
        )
        self.library = folder / "lib"
        package = self.library / "shelf"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text('"""A shelf."""\n')
        (package / "book.py").write_text(
            'class Book:\n    """One."""\n\n    def open(self):\n        async def page(): ...\n'
            * 2
        )
        (package / "torn.py").write_text("def half(:\n")
        (self.library / "loft").mkdir()
        (self.library / "loft" / "__init__.py").write_text("")
        (self.library / "loft" / "box.py").write_text("x = 1\n\n\n")
        (self.library / "site-packages").mkdir()
        (self.library / "site-packages" / "guest.py").write_text("")

    def run(self, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        without = {k: v for k, v in os.environ.items() if k != "DJJP_DATABASE_URL"}
        command = [str(self.example / "demo.py"), "--source", str(self.library), *options]
        return subprocess.run(
            [sys.executable, *command],
            cwd=self.library,  # the demo works from any folder
            env=without | {"PYTHONPATH": str(ROOT), "COLUMNS": "80"} | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def query(self, file: str, statement: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.example / file)) as connection, connection:
            return connection.execute(statement).fetchall()

    def tables(self, file: str) -> set[object]:
        rows = self.query(file, "SELECT name FROM sqlite_master WHERE type = 'table'")
        return {name for (name,) in rows} - {"sqlite_sequence"}


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    return Demo(tmp_path)


@pytest.fixture(params=QUEUES)
def place(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Yield the environment that puts the demo's queue into its file, or into a database on a server."""
    if request.param == "sqlite":
        yield {}
        return
    import psycopg

    server = request.getfixturevalue("postgres_url")
    name = f"djjp_demo_{os.getpid()}"
    address, _, options = server.partition("?")
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield {"DJJP_DATABASE_URL": f"{address.rpartition('/')[0]}/{name}?{options}"}
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_the_demo_indexes_reports_failures_with_their_errors_and_keeps_the_databases_isolated(
    demo: Demo, place: dict[str, str]
) -> None:
    for _ in range(2):  # a second run starts clean
        ran = demo.run(**place)

        assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
        assert "enqueued   library.index_library in " in ran.stdout
        # The list, five modules, and a summary of each of two packages.
        assert "  8 of 8 jobs, 1 failed, 1 cancelled\n" in ran.stdout
        assert "The report: 1 packages\n" in ran.stdout
        assert "  shelf has no summary, because one of its modules failed:\n" in ran.stdout
        assert "consumer start-up" in ran.stdout
        assert "jobs/s" in ran.stdout
        assert "shelf.torn\n      SyntaxError: " in ran.stdout
        assert "(torn.py, line 1)" in ran.stdout
        assert "Traceback" not in ran.stdout
        assert "Isolated: " in ran.stdout

        columns = "name, lines, classes, functions, docstrings"
        assert demo.query(
            "db.sqlite3", f"SELECT {columns} FROM library_module ORDER BY lines DESC"
        ) == [
            ("shelf.book", 10, 2, 4, 2),
            ("loft.box", 3, 0, 0, 0),
            ("shelf", 1, 0, 0, 1),
            ("loft", 0, 0, 0, 0),
        ]
        loft, shelf = demo.query(
            "db.sqlite3", "SELECT name, modules, lines, reason FROM library_package ORDER BY name"
        )
        assert loft == ("loft", 2, 3, "")
        assert shelf[:3] == ("shelf", 0, 0)
        assert "SyntaxError" in str(shelf[3])

    application = demo.tables("db.sqlite3")
    assert {"library_module", "auth_user"} <= application
    assert not [name for name in application if str(name).startswith("djjp")]
    if place:
        assert not (demo.example / "queue.sqlite3").exists()
    else:
        ran_as = demo.query("queue.sqlite3", "SELECT name, count(*) FROM djjp_job GROUP BY name")
        assert set(ran_as) == {
            ("library.index_library", 1),
            ("library.index_module", 3),
            ("example_multidb.library.tasks.index_module", 2),
            ("library.summarise", 2),
            ("library.note_failure", 2),  # one of them had nothing to note
        }
        assert demo.query("queue.sqlite3", "SELECT job, cron FROM djjp_schedule") == [
            ("library.index_library", "0 3 * * *")
        ]
        queue = demo.tables("queue.sqlite3")
        assert "djjp_job" in queue
        assert [name for name in queue if not str(name).startswith("djjp_")] == [
            "django_migrations"
        ]


def test_the_demo_fails_when_a_table_is_in_the_wrong_database(demo: Demo) -> None:
    demo.query("db.sqlite3", "CREATE TABLE djjp_stray (id)")
    demo.query("queue.sqlite3", "CREATE TABLE stray (id)")

    ran = demo.run()

    assert ran.returncode == 1
    assert "NOT ISOLATED" in ran.stdout
    assert "djjp_stray is in the application's database" in ran.stdout
    assert "; stray is in the queue's database" in ran.stdout
    assert "\n  Isolated: " not in ran.stdout


def free_port() -> int:
    """Return a port on which nobody listens, below those that the system gives to servers that ask for any."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(first - 10_000, first)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def test_the_demo_begins_nothing_if_its_site_has_no_port(demo: Demo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = demo.run("--site", "--port", str(port))
    assert ran.returncode == 2
    assert f"nothing can listen on port {port} ([Errno 98] Address already in use" in ran.stderr
    assert not (demo.example / "queue.sqlite3").exists()


def answers(port: int) -> bool:
    with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def test_the_site_serves_a_live_dashboard_and_ends_with_its_consumers(demo: Demo) -> None:
    port = free_port()
    command = [str(demo.example / "demo.py"), "--source", str(demo.library)]
    without = {k: v for k, v in os.environ.items() if k != "DJJP_DATABASE_URL"}
    site = subprocess.Popen(
        [sys.executable, *command, "--site", "--port", str(port)],
        cwd=demo.library,
        env=without | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert site.stdout is not None
        address = f"http://127.0.0.1:{port}/admin/djjp/"
        assert any(address in line for line in site.stdout)
        eventually(lambda: demo.query("queue.sqlite3", SUCCEEDED) != [(0,)])
        consumers = demo.query("queue.sqlite3", "SELECT pid FROM djjp_consumer")
        assert len(consumers) == 2
        eventually(lambda: answers(port))  # the jobs do not wait for the site
        with urlopen(address) as answer:
            assert answer.url == f"http://127.0.0.1:{port}/admin/login/?next=/admin/djjp/"
        tags = demo.query("queue.sqlite3", "SELECT count(*) FROM djjp_tag")
        assert tags != [(0,)]

        site.send_signal(signal.SIGTERM)
        out, err = site.communicate(timeout=90)
    finally:
        site.kill()
        site.communicate()

    assert site.returncode in (0, 130), err
    assert "Traceback" not in out + err
    assert demo.query("queue.sqlite3", "SELECT pid FROM djjp_consumer") == []
    assert [pid for (pid,) in consumers if Path(f"/proc/{pid}").exists()] == []
