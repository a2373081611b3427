"""SQLite's listener: the system reports writes; where it does not, a consumer polls by the clock."""

from __future__ import annotations

import errno
import gc
import os
import select
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from djjp.consumer.wakeup import Wakeup, wait
from djjp.databases import queue_database
from djjp.engine.sqlite import inotify
from djjp.engine.sqlite import listener as listener_module
from djjp.engine.sqlite.database import SQLiteDatabase
from tests.support.processes import eventually
from tests.support.projects import alias_for

IDLE = 60.0
WRITE = "INSERT INTO notes VALUES (1)"

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports writes")


@pytest.fixture
def wakeup() -> Iterator[Wakeup]:
    wakeup = Wakeup()
    yield wakeup
    wakeup.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return made(tmp_path / "queue.sqlite3")


@pytest.fixture
def database(file: Path) -> Iterator[SQLiteDatabase]:
    with alias_for(queue_database(file)) as alias:
        yield SQLiteDatabase(alias)


@pytest.fixture
def no_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a system without inotify, or one whose user has as many listeners as allowed."""
    monkeypatch.setattr(inotify, "_library", refuse_descriptor)


def refuse_descriptor() -> Any:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def made(file: Path) -> Path:
    write(file, "PRAGMA journal_mode=WAL", "CREATE TABLE notes (note)")
    return file


def write(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        for statement in statements:
            other.execute(statement).fetchall()


def in_another_process(file: Path, statement: str = WRITE) -> None:
    code = "import sqlite3, sys; sqlite3.connect(sys.argv[1], isolation_level=None).execute(sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, file, statement], check=True)


def at_rest(listener: Any) -> None:
    """Wait until the listener expects no more commits of earlier writes."""
    eventually(lambda: not listener.woken() and listener.interval(IDLE) == 0.25)


def reports(listener: Any, file: Path) -> bool:
    """Return whether the system reports another connection's write, and the listener then wakes for it."""
    at_rest(listener)
    fd = listener.fileno()
    assert select.select([fd], [], [], 0)[0] == []
    write(file, WRITE)
    return select.select([fd], [], [], IDLE)[0] == [fd] and listener.woken()


def record_polls(listener: Any) -> list[float]:
    """Return a list of the times at which the listener is polled from now on."""
    polls, woken = [], listener.woken

    def recording() -> bool:
        polls.append(time.monotonic())
        return bool(woken())

    listener.woken = recording
    return polls


def wait_for_a_write(wakeup: Wakeup, listener: Any, file: Path) -> bool:
    writer = threading.Timer(0.1, in_another_process, [file])
    writer.start()
    try:
        return wait(wakeup, listener, IDLE, IDLE)
    finally:
        writer.join()


@on_linux
def test_a_write_of_another_process_wakes_a_consumer_that_seldom_polls(
    database: SQLiteDatabase, file: Path, wakeup: Wakeup
) -> None:
    listener = database.listener()
    at_rest(listener)
    polls, began = record_polls(listener), time.monotonic()

    assert wait_for_a_write(wakeup, listener, file)
    # Four times a second by the clock, and a few times around a write.
    assert len(polls) <= 4 * (time.monotonic() - began) + 12


def test_a_write_of_another_process_wakes_where_the_system_reports_nothing(
    database: SQLiteDatabase, file: Path, no_reports: None, wakeup: Wakeup
) -> None:
    listener = database.listener()

    assert listener.fileno() is None
    assert listener.interval(0.0) < listener.interval(IDLE) < 0.01
    assert wait_for_a_write(wakeup, listener, file)


@on_linux
def test_own_writes_do_not_keep_the_consumer_awake(
    database: SQLiteDatabase, wakeup: Wakeup
) -> None:
    listener = database.listener()
    at_rest(listener)
    for _ in range(1000):
        database.connection.cursor().execute(WRITE)
    polls = record_polls(listener)

    assert wait(wakeup, listener, 1.0, 0.0) is False
    assert len(polls) <= 4 + 12
    assert listener.interval(IDLE) == 0.25


@on_linux
def test_a_commit_that_is_visible_long_after_its_write_is_reported_wakes_soon(
    database: SQLiteDatabase, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large transaction writes to the log before its end, as a slow commit does."""
    listener: Any = database.listener()
    at_rest(listener)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("PRAGMA cache_size = 1")
        other.execute("BEGIN")
        other.executemany("INSERT INTO notes VALUES (?)", [(" " * 500,)] * 200)
        assert select.select([listener.fileno()], [], [], IDLE)[0]
        now = time.monotonic()
        monkeypatch.setattr(listener_module, "time", SimpleNamespace(monotonic=lambda: now))
        assert not listener.woken()
        listener._log.written()  # drops the reports of all that it has written so far
        assert listener.interval(IDLE) < 0.01
        other.execute("COMMIT")
    eventually(listener.woken)


RESETS = {
    "a checkpoint": "PRAGMA wal_checkpoint(PASSIVE)",
    "a restart": "PRAGMA wal_checkpoint(RESTART)",
    "a truncation": "PRAGMA wal_checkpoint(TRUNCATE)",
    "a vacuum": "VACUUM",
}


@on_linux
@pytest.mark.parametrize("reset", RESETS.values(), ids=RESETS)
def test_writes_are_reported_after_the_log_was_reset(
    database: SQLiteDatabase, file: Path, reset: str
) -> None:
    listener = database.listener()
    write(file, WRITE, reset)

    assert reports(listener, file)


@on_linux
def test_writes_are_reported_on_a_new_connection_whose_log_is_a_new_file(
    database: SQLiteDatabase, file: Path
) -> None:
    listener = database.listener()
    log = Path(f"{file}-wal")
    assert log.exists()
    database.connection.close()
    assert not log.exists()  # the last connection has removed it
    listener.woken()

    assert reports(listener, file)


@on_linux
def test_writes_are_reported_of_a_file_that_replaced_the_queues_file(
    database: SQLiteDatabase, file: Path
) -> None:
    listener = database.listener()
    before = sqlite3.connect(file, isolation_level=None)  # goes on using the old file
    with closing(before):
        before.execute("SELECT * FROM notes").fetchall()
        for part in (file, Path(f"{file}-wal"), Path(f"{file}-shm")):
            part.rename(part.with_name(f"old-{part.name}"))
        made(file)
        database.connection.close()
        listener.woken()

        assert reports(listener, file)
        at_rest(listener)
        before.execute(WRITE)
        descriptor = listener.fileno()
        assert descriptor is not None
        assert select.select([descriptor], [], [], 0.05)[0] == []


@on_linux
def test_writes_are_reported_of_a_file_behind_a_link(file: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(file)
    with alias_for(queue_database(tmp_path / "link")) as alias:
        assert reports(SQLiteDatabase(alias).listener(), file)


@on_linux
def test_a_system_that_misses_a_write_is_distrusted_for_a_while(
    database: SQLiteDatabase, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network folder."""
    monkeypatch.setattr(listener_module, "_LONGEST_COMMIT", 0.0)
    monkeypatch.setattr(listener_module, "_DISTRUST", 60.0)
    listener: Any = database.listener()
    at_rest(listener)
    write(file, WRITE)
    listener._log.written()  # drops the report

    assert listener.woken()
    assert listener.interval(IDLE) < 0.01
    assert listener.unheard() is None
    assert 0 < listener._distrust_until - time.monotonic() <= 60
    listener._distrust_until = time.monotonic()  # as a minute later
    eventually(lambda: listener.interval(IDLE) == 0.25)


@on_linux
def test_a_system_that_misses_all_writes_for_a_while_is_reported(
    database: SQLiteDatabase, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_module, "_LONGEST_COMMIT", 0.0)
    monkeypatch.setattr(listener_module, "_DISTRUST", 60.0)
    listener: Any = database.listener()
    at_rest(listener)

    def miss() -> None:
        write(file, WRITE)
        listener._log.written()  # drops the report
        assert listener.woken()

    miss()
    assert listener.unheard() is None, "one write can be missed"
    listener._missed_since -= 61
    miss()
    assert listener.unheard() == "the system does not report writes to the queue's file"
    monkeypatch.setattr(listener_module, "_LONGEST_COMMIT", 60.0)
    write(file, WRITE)
    eventually(listener.woken)
    assert listener.unheard() is None


@on_linux
def test_under_a_flood_of_writes_a_consumer_polls_by_the_clock(
    database: SQLiteDatabase, file: Path, wakeup: Wakeup
) -> None:
    listener = database.listener()
    at_rest(listener)
    begun, over = threading.Event(), threading.Event()

    def flood() -> None:
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            while not over.is_set():
                other.execute(WRITE)
                begun.set()

    writer = threading.Thread(target=flood)
    writer.start()
    try:
        assert begun.wait(30)
        woken, began = 0, time.monotonic()
        while (took := time.monotonic() - began) < 0.5:
            woken += wait(wakeup, listener, 0.5, IDLE)
    finally:
        over.set()
        writer.join()
    assert 1 <= woken <= took / 0.005 + 1


@on_linux
def test_not_every_page_of_a_long_transaction_makes_the_consumer_poll(
    database: SQLiteDatabase, file: Path, wakeup: Wakeup
) -> None:
    listener = database.listener()
    at_rest(listener)
    begun, over = threading.Event(), threading.Event()

    def flood() -> None:
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("PRAGMA cache_size = 1")
            other.execute("BEGIN")
            while not over.is_set():
                other.executemany("INSERT INTO notes VALUES (?)", [(" " * 500,)] * 4)
                begun.set()
            other.execute("ROLLBACK")

    writer = threading.Thread(target=flood)
    writer.start()
    try:
        assert begun.wait(30)
        polls, began = record_polls(listener), time.monotonic()
        assert wait(wakeup, listener, 0.5, IDLE) is False
    finally:
        over.set()
        writer.join()
    assert 4 < len(polls) <= (polls[-1] - began) / 0.001 + 1


def test_a_database_without_a_log_is_polled_by_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-wal").touch()  # not the log of the database without a name
    memory = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    rollback = {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "plain.sqlite3"}
    for settings in (memory, rollback):
        with alias_for(settings) as alias:
            listener = SQLiteDatabase(alias).listener()
            assert listener.fileno() is None
            assert listener.interval(IDLE) < 0.01


@on_linux
def test_no_descriptor_is_left_by_a_listener_or_by_its_new_connections(
    database: SQLiteDatabase,
) -> None:
    def descriptors() -> int:
        count = 0
        for fd in Path("/proc/self/fd").iterdir():
            with suppress(OSError):  # the descriptor that this loop itself reads by
                count += "inotify" in str(fd.readlink())
        return count

    gc.collect()  # objects that earlier tests have left
    before = descriptors()
    listener = database.listener()
    for _ in range(19):
        listener = database.listener()
    for _ in range(20):
        database.connection.close()
        listener.woken()
    assert descriptors() == before + 1
    del listener
    assert descriptors() == before


def test_temporary_pages_stay_in_memory_for_consumers_only(
    database: SQLiteDatabase,
) -> None:
    """Other connections build indexes and copy tables, for which memory can be too small."""

    def in_memory() -> bool:
        with database.connection.cursor() as cursor:
            cursor.execute("PRAGMA temp_store")
            return bool(cursor.fetchone() == (2,))

    assert not in_memory()
    listener = database.listener()
    assert in_memory()
    database.connection.close()
    listener.woken()
    assert in_memory()


@on_linux
def test_writes_are_reported_once_the_system_has_a_descriptor_again(
    database: SQLiteDatabase,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(listener_module, "_WATCH_EVERY", 0.0)
    with monkeypatch.context() as lacking:
        lacking.setattr(inotify, "_library", refuse_descriptor)
        listener = database.listener()
        for _ in range(3):
            listener.woken()
        assert listener.fileno() is None

    assert reports(listener, file)
    assert caplog.text.count("this consumer polls until one is") == 1
