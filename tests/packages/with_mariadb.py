"""MariaDB as the application's database: jobs commit with its data through the outbox, and use its connections."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.packages.support import need, run
from tests.support.processes import eventually

SETTINGS = """
import os

import pymysql

pymysql.install_as_MySQLdb()
pymysql.version_info = (2, 2, 7, "final", 0)  # the version that Django compares is that of mysqlclient
INSTALLED_APPS = ["djjp.outbox", "shop", *INSTALLED_APPS]
DATABASES["default"] = {
    "ENGINE": "django.db.backends.mysql",
    "NAME": "shop",
    "USER": "root",
    "OPTIONS": {"unix_socket": os.environ["MARIADB_SOCKET"]},
}
"""

JOBS = """
from django.contrib.auth.models import Group
from django.db import connection

from djjp import job


@job(name="shop.order")
def order(title):
    Group.objects.create(name=title)


@job(name="shop.lock")
def lock():
    with connection.cursor() as cursor:
        cursor.execute("SET @left = 1")
        cursor.execute("SELECT GET_LOCK('left', 0)")


@job(name="shop.left")
def left():
    with connection.cursor() as cursor:
        cursor.execute("SELECT @left, IS_FREE_LOCK('left')")
        return [*cursor.fetchone()]
"""

SCRIPT = """
from django.contrib.auth.models import Group
from django.db import connection, transaction
from django.db.backends.signals import connection_created
from djjp import run_many
from djjp.consumer.consumer import Consumer
from djjp.models import Job
from djjp.outbox.models import OutboxJob
from shop.jobs import left, lock, order

call_command("check", databases=["default", "queue"], fail_level="ERROR")
assert connection.vendor == "mysql"
try:
    with transaction.atomic():
        Group.objects.create(name="rolled back")
        order.run_later("never")
        raise ValueError
except ValueError:
    pass
with transaction.atomic():
    Group.objects.create(name="committed")
    order.run_later("by the outbox")
    assert (OutboxJob.objects.count(), Job.objects.count()) == (1, 0)
assert (OutboxJob.objects.count(), Job.objects.count()) == (0, 1)
made = []
connection_created.connect(lambda connection, **kwargs: made.append(connection.alias), weak=False)
run_many(order.bind(str(number)) for number in range(200))
assert Consumer(4, drain=True).run()
assert made.count("default") <= 8, made
assert Group.objects.count() == 202
lock.run_later()
handle = left.run_later()
assert Consumer(1, drain=True).run()
handle.refresh()
assert handle.result == [None, 1], handle.result
print(sorted(set(Job.objects.values_list("state", flat=True))))
"""


@contextmanager
def mariadb() -> Iterator[Path]:
    """Run a MariaDB server with an empty database; return the path of its socket."""
    path = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
    server, install = shutil.which("mariadbd", path=path), shutil.which("mariadb-install-db")
    if server is None or install is None:
        pytest.skip("MariaDB is not installed")
    folder = Path(tempfile.mkdtemp(prefix="djjp-mariadb-"))
    folder.chmod(0o755)
    data, socket = folder / "data", folder / "socket"
    user = pwd.getpwuid(os.geteuid()).pw_name
    common = ["--no-defaults", f"--datadir={data}", f"--user={user}"]
    subprocess.run(
        [install, *common, "--auth-root-authentication-method=normal", "--skip-test-db"],
        check=True,
        capture_output=True,
    )
    process = subprocess.Popen(
        [
            server,
            *common,
            f"--socket={socket}",
            "--skip-networking",
            f"--pid-file={folder / 'pid'}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        eventually(socket.exists)
        import pymysql  # type: ignore[import-untyped]  # only where these tests run

        with pymysql.connect(unix_socket=str(socket), user="root") as connection:
            connection.cursor().execute("CREATE DATABASE shop CHARACTER SET utf8mb4")
        yield socket
    finally:
        process.kill()
        process.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def test_jobs_commit_with_the_data_of_mariadb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("pymysql", "PyMySQL")
    with mariadb() as socket:
        monkeypatch.setitem(os.environ, "MARIADB_SOCKET", str(socket))
        printed = run(tmp_path, SETTINGS, SCRIPT, jobs=JOBS)

    assert printed.strip().endswith("['succeeded']")
