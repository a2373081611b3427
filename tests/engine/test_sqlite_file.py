"""The file of an SQLite queue, while it is copied, removed, restored or replaced beneath open connections."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import OperationalError, connections
from django.test import override_settings

from djjp import current_job, run_many
from djjp.databases import queue_database
from djjp.engine import current
from djjp.engine.sqlite import backup
from djjp.engine.sqlite import file as file_module
from djjp.exceptions import QueueUnavailable
from djjp.jobs import JobHandle
from djjp.models import Job, State
from tests.project.shop.jobs import add, read_file
from tests.support.consumers import consuming
from tests.support.jobs import registered
from tests.support.processes import Processes, eventually
from tests.support.projects import alias_for

pytestmark = pytest.mark.usefixtures("sqlite_file")

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such locks")

COME_AND_GO = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(connection.execute("SELECT count(*) FROM djjp_job").fetchone()[0])
connection.close()
"""


@pytest.fixture(autouse=True)
def no_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each commit compare the files, because a test replaces them within a millisecond."""
    monkeypatch.setattr(file_module, "_TRUST", 0.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A queue's file with its tables."""
    # Started processes would use a folder of the test worker's name, inside of any other.
    folder = tmp_path / settings.HOME.name
    folder.mkdir()
    for name in ("queue.sqlite3", "application.sqlite3"):
        backup.copy(settings.HOME / name, folder / name)
    return folder / "queue.sqlite3"


@pytest.fixture
def alias(file: Path) -> Iterator[str]:
    """The alias of that file, as the queue's."""
    with alias_for(queue_database(file)) as alias, override_settings(DJJP={"db_name": alias}):
        yield alias


@pytest.fixture
def processes(file: Path) -> Iterator[Processes]:
    """Starts processes on that file."""
    started = Processes("sqlite")
    yield started
    started.kill()


def come_and_go(file: Path) -> int:
    """Count the jobs in another process, which is the last one to close the file as far as SQLite can see."""
    found = subprocess.run(
        [sys.executable, "-c", COME_AND_GO, str(file)], capture_output=True, text=True, check=True
    )
    return int(found.stdout)


def log(file: Path) -> Path:
    return file.with_name(f"{file.name}-wal")


def exist(handles: list[JobHandle]) -> bool:
    """Return whether these jobs, and no others, are in the queue of this process."""
    return set(Job.objects.values_list("pk", flat=True)) == {handle.id for handle in handles}


# A program reads the files


@on_linux
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_a_program_that_reads_the_files_costs_no_job(alias: str, file: Path, suffix: str) -> None:
    add.run_later(1)

    file.with_name(file.name + suffix).read_bytes()
    assert come_and_go(file) == 1
    run_many([add.bind(2), add.bind(3)])
    add.run_later(4)

    assert come_and_go(file) == 4


@on_linux
def test_a_consumer_whose_job_reads_the_file_still_sees_new_jobs(
    alias: str, file: Path, processes: Processes
) -> None:
    consumer = processes.start("start_consumer", DJJP_TEST_HOME=str(file.parent))
    assert read_file.run_later(str(file)).join(30) > 0
    file.read_bytes()
    connections[alias].close()
    come_and_go(file)

    handles = [add.run_later(n) for n in range(5)]

    assert [handle.join(30) for handle in handles] == [0, 1, 2, 3, 4]
    assert processes.end(consumer) == (0, "")


@on_linux
def test_a_forked_child_that_ends_leaves_the_guard_to_its_parent(
    file: Path, processes: Processes
) -> None:
    code = f"""
import django; django.setup()
import os, pathlib, subprocess, sys
from tests.project.shop.jobs import add, read_file
add.run_later(1)
if os.fork() == 0:
    sys.exit()
os.wait()
pathlib.Path({str(file)!r}).read_bytes()
subprocess.run([sys.executable, "-c", {COME_AND_GO!r}, {str(file)!r}], check=True)
add.run_later(2)
subprocess.run([sys.executable, "-c", {COME_AND_GO!r}, {str(file)!r}], check=True)
"""
    out, err = processes.python(code, DJJP_TEST_HOME=str(file.parent)).communicate(timeout=60)

    assert (out.split(), err) == (["1", "2"], "")


def test_the_last_connection_of_a_process_leaves_one_complete_file(alias: str, file: Path) -> None:
    add.run_later(1)
    assert log(file).exists()

    connections[alias].close()

    assert not log(file).exists()


def test_the_last_process_leaves_one_complete_file(file: Path, processes: Processes) -> None:
    done = processes.run("djjp", "status", DJJP_TEST_HOME=str(file.parent))

    assert done.returncode == 0, done.stderr
    assert [path.name for path in file.parent.glob("queue.sqlite3*")] == ["queue.sqlite3"]


def test_a_connection_that_closes_leaves_the_guard_to_others(alias: str, file: Path) -> None:
    def enqueue_and_close() -> None:
        add.run_later(2)
        connections[alias].close()

    add.run_later(1)
    thread = threading.Thread(target=enqueue_and_close)
    thread.start()
    thread.join()

    file.read_bytes()

    assert come_and_go(file) == 2
    assert log(file).exists()


# The log is gone


def test_a_job_is_written_again_when_the_log_was_removed(
    alias: str, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = add.run_later(1)
    with connections[alias].cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for suffix in ("-wal", "-shm"):
        file.with_name(file.name + suffix).unlink()

    second = add.run_later(2)
    third, fourth = run_many([add.bind(3), add.bind(4)])

    assert exist([first, second, third, fourth])
    assert come_and_go(file) == 4
    [message] = caplog.messages
    assert message == (
        f"the queue's file {file}, or its -wal or -shm file, was removed or replaced while it was open;"
        " opening it anew"
    )


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_no_job_is_acknowledged_while_another_thread_has_a_removed_log_open(
    alias: str, file: Path, suffix: str
) -> None:
    add.run_later(1)
    opened, go = threading.Event(), threading.Event()

    def other() -> None:
        Job.objects.count()
        opened.set()
        go.wait(30)
        connections[alias].close()

    thread = threading.Thread(target=other)
    thread.start()
    opened.wait(30)
    with connections[alias].cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file.with_name(file.name + suffix).unlink()

    with pytest.raises(QueueUnavailable, match=r"another thread .* restart the process"):
        add.run_later(2)
    go.set()
    thread.join()

    add.run_later(3)
    assert come_and_go(file) == 2


# The index of the log is gone

ENQUEUE = """
import django; django.setup()
from tests.project.shop.jobs import add
for number in range(20):
    add.run_later(number)
"""


def remove_index(file: Path) -> None:
    file.with_name(f"{file.name}-shm").unlink()


def enqueue_elsewhere(file: Path, processes: Processes) -> None:
    """Enqueue 20 jobs in a process that comes and goes."""
    out = processes.python(ENQUEUE, DJJP_TEST_HOME=str(file.parent)).communicate(timeout=60)
    assert out == ("", "")


@on_linux
@pytest.mark.parametrize("verb", ["enqueue", "enqueue_many", "transaction", "close"])
def test_a_connection_whose_index_was_removed_costs_no_job_of_another_process(
    alias: str, file: Path, processes: Processes, verb: str
) -> None:
    """It would write over what others have committed, or delete it as it closes."""
    add.run_later(1)
    remove_index(file)
    enqueue_elsewhere(file, processes)

    match verb:
        case "enqueue":
            add.run_later(2)
        case "enqueue_many":
            run_many([add.bind(2)])
        case "transaction":
            with pytest.raises(OperationalError, match="was replaced"), current().db.transaction():
                add.run_later(2)
            add.run_later(2)
        case _:
            connections[alias].close()

    assert come_and_go(file) == (21 if verb == "close" else 22)
    connections[alias].close()
    with closing(sqlite3.connect(file)) as closed:
        assert closed.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert closed.execute("SELECT count(*) FROM djjp_job").fetchone()[0] >= 21


def test_jobs_written_since_the_index_was_removed_stay(alias: str, file: Path) -> None:
    first = add.run_later(1)
    remove_index(file)

    second = add.run_later(2)

    assert exist([first, second])
    assert come_and_go(file) == 2


def test_a_consumer_whose_index_was_removed_sees_new_jobs_and_keeps_them_as_it_ends(
    alias: str, file: Path, processes: Processes
) -> None:
    consumer = processes.start("start_consumer", DJJP_TEST_HOME=str(file.parent))
    assert add.run_later(1).join(30) == 1
    connections[alias].close()
    remove_index(file)

    handles = [add.run_later(number) for number in range(5)]

    assert [handle.join(30) for handle in handles] == [0, 1, 2, 3, 4]
    code, err = processes.end(consumer)
    assert code == 0
    assert "or its -wal or -shm file, was removed or replaced while it was open" in err
    assert Job.objects.filter(state=State.SUCCEEDED).count() == 6


@on_linux
def test_a_heartbeat_of_a_consumer_whose_index_was_removed_writes_over_no_job(
    alias: str, file: Path, processes: Processes
) -> None:
    is_held, goes_on = threading.Event(), threading.Event()
    rounds: list[str | None] = []

    def hold(obstacle: str | None) -> None:
        rounds.append(obstacle)
        is_held.set()
        goes_on.wait(60)

    with consuming() as consumer:
        consumer.on_round = hold
        try:
            assert is_held.wait(30)
            remove_index(file)
            enqueue_elsewhere(file, processes)
            consumer._maintenance.after_outage()  # a heartbeat is due
        finally:
            goes_on.set()
        eventually(lambda: len(rounds) > 2)

    assert Job.objects.count() == 20
    with connections[alias].cursor() as cursor:
        cursor.execute("PRAGMA integrity_check")
        assert cursor.fetchone() == ("ok",)


# The file is gone, or another one


def put_back(copy: Path, file: Path) -> None:
    """Restore a backup as the docs say: first remove the log, then replace the file."""
    for suffix in ("-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    copy.replace(file)


@pytest.mark.parametrize("verb", ["enqueue", "enqueue_many", "read"])
def test_after_a_restore_a_process_uses_the_restored_file(
    alias: str, file: Path, tmp_path: Path, verb: str
) -> None:
    kept = add.run_later(1)
    backup.copy(file, tmp_path / "backup")
    add.run_later(2)

    put_back(tmp_path / "backup", file)
    if verb == "read":
        kept.refresh()
        assert exist([kept])
    else:
        calls = [add.bind(3)] if verb == "enqueue" else [add.bind(3), add.bind(4)]
        assert exist([kept, *run_many(calls)])


def test_a_moved_file_is_left_for_the_one_in_its_place(
    alias: str, file: Path, tmp_path: Path
) -> None:
    backup.copy(file, tmp_path / "backup")
    add.run_later(1)
    file.rename(tmp_path / "aside")
    (tmp_path / "backup").rename(file)

    add.run_later(2)

    assert come_and_go(file) == 1


def test_a_link_that_leads_elsewhere_is_followed(file: Path, tmp_path: Path) -> None:
    backup.copy(file, tmp_path / "other")
    link = tmp_path / "current"
    link.symlink_to(file)
    with alias_for(queue_database(link)) as alias, override_settings(DJJP={"db_name": alias}):
        add.run_later(1)
        link.unlink()
        link.symlink_to(tmp_path / "other")
        add.run_later(2)

    assert come_and_go(tmp_path / "other") == 1


def test_a_removed_file_takes_no_job_and_is_used_again_once_it_is_restored(
    alias: str, file: Path, tmp_path: Path
) -> None:
    backup.copy(file, tmp_path / "backup")
    add.run_later(1)
    for path in file.parent.glob("queue.sqlite3*"):
        if path.is_file():
            path.unlink()

    with pytest.raises(QueueUnavailable, match="was removed while it was open"):
        add.run_later(2)
    assert not file.exists()

    (tmp_path / "backup").rename(file)
    assert exist([add.run_later(3)])


def test_a_consumer_goes_on_with_a_restored_file(
    alias: str, file: Path, tmp_path: Path, processes: Processes
) -> None:
    waiting = add.using(queue="other").run_later(1)
    backup.copy(file, tmp_path / "backup")
    consumer = processes.start("start_consumer", DJJP_TEST_HOME=str(file.parent))
    assert waiting.join(30) == 1

    put_back(tmp_path / "backup", file)

    # According to the backup it has not run yet.
    eventually(lambda: JobHandle(waiting.id).attempts == 1)
    assert waiting.join(30) == 1
    assert add.run_later(2).join(30) == 2
    code, err = processes.end(consumer)
    assert code == 0
    assert "removed or replaced while it was open; opening it anew" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("concurrency", ["threads", "asyncio"])
def test_a_job_that_runs_while_a_backup_is_restored_in_which_it_is_ready_ends_by_its_second_outcome(
    alias: str, file: Path, tmp_path: Path, concurrency: str
) -> None:
    running, goes_on, runs = threading.Event(), threading.Event(), count(1)

    def wait_the_first_time() -> str:
        number = next(runs)
        if number == 1:
            running.set()
            goes_on.wait(30)
            current = current_job()
            current.progress(1)
        return f"run {number}"

    with registered("test.wait_the_first_time", wait_the_first_time) as function:
        handle = function.run_later()
        backup.copy(file, tmp_path / "backup")
        try:
            with consuming(2, concurrency=concurrency):
                assert running.wait(30)
                connections[alias].close()
                put_back(tmp_path / "backup", file)
                eventually(lambda: handle.refresh() or handle.state != State.RUNNING)
                assert handle.join(30) == "run 2"
                goes_on.set()
                assert add.run_later(1).join(30) == 1
        finally:
            goes_on.set()
    handle.refresh()
    assert (handle.state, handle.progress) == (State.SUCCEEDED, None)


def test_a_burst_of_enqueues_compares_the_files_once_in_a_millisecond(
    alias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_module, "_TRUST", 0.001)
    compared: list[str] = []
    original = file_module._leads

    def leads(path: str, identity: file_module.Identity) -> bool:
        compared.append(path)
        return original(path, identity)

    monkeypatch.setattr(file_module, "_leads", leads)
    began = time.monotonic()
    for number in range(200):
        add.run_later(number)

    assert 3 <= len(compared) <= 3 * (1 + (time.monotonic() - began) / 0.001)


def test_an_error_that_hides_a_file_does_not_count_as_its_removal(
    alias: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add.run_later(1)

    def refuse(path: Any) -> None:
        raise PermissionError(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refuse)
        add.run_later(2)

    assert come_and_go(file) == 2


# Backup


def test_a_backup_is_complete_while_others_write(alias: str, file: Path, tmp_path: Path) -> None:
    run_many(add.bind(n) for n in range(5000))
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            run_many(add.bind(n) for n in range(100))
        connections[alias].close()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        backup.copy(file, tmp_path / "backup")
    finally:
        stop.set()
        thread.join()

    with closing(sqlite3.connect(tmp_path / "backup")) as copied:
        assert copied.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (count,) = copied.execute("SELECT count(*) FROM djjp_job").fetchone()
    assert count >= 5000
    assert count % 100 == 0
    assert not list(tmp_path.glob(".*.part"))


def test_a_backup_overwrites_no_file_and_leaves_none_half_written(
    file: Path, tmp_path: Path
) -> None:
    target = tmp_path / "backup"
    target.write_text("mine")

    with pytest.raises(FileExistsError, match="a backup overwrites no file"):
        backup.copy(file, target)
    assert target.read_text() == "mine"
    (tmp_path / "broken").write_text("no database, but a text of some length")
    with pytest.raises(sqlite3.Error):
        backup.copy(tmp_path / "broken", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert not list(tmp_path.glob(".*.part"))


def test_a_backup_is_as_readable_as_the_queue(file: Path, tmp_path: Path) -> None:
    file.chmod(0o600)

    backup.copy(file, tmp_path / "backup")

    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o600
