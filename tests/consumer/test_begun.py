"""The note of which claimed jobs have begun, as whoever survives its writer reads it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from djjp.consumer import start_journal
from djjp.consumer.start_journal import StartJournal
from djjp.engine import Claimed
from djjp.ids import new_id
from tests.support.processes import ROOT, eventually

NAME = "some.host:7:0af3"


def claimed() -> Claimed:
    return Claimed(new_id(), "test.job", "{}", 1, 0)


def test_only_what_has_begun_and_is_not_settled_is_noted(tmp_path: Path) -> None:
    note = StartJournal(tmp_path, NAME, 4)
    waiting, running, ended = jobs = [claimed() for _ in range(3)]
    note.reserve(jobs)
    assert start_journal.started(tmp_path, NAME) == set()

    note.record(running)
    note.record(ended)
    assert start_journal.started(tmp_path, NAME) == {running.id, ended.id}

    note.forget([ended])
    assert start_journal.started(tmp_path, NAME) == {running.id}
    note.forget([waiting, running])
    assert start_journal.started(tmp_path, NAME) == set()


def test_cells_are_used_again_so_that_a_consumer_may_run_for_years(tmp_path: Path) -> None:
    note = StartJournal(tmp_path, NAME, 3)
    size = (tmp_path / "some.host-7-0af3.begun").stat().st_size
    held: list[Claimed] = []
    for _ in range(50):
        held.append(claimed())
        note.reserve([held[-1]])
        note.record(held[-1])
        if len(held) == 3:
            assert start_journal.started(tmp_path, NAME) == {job.id for job in held}
            note.forget([held.pop(0)])
    assert (tmp_path / "some.host-7-0af3.begun").stat().st_size == size


def test_a_job_that_comes_again_is_noted_anew(tmp_path: Path) -> None:
    note, job = StartJournal(tmp_path, NAME, 1), claimed()
    for attempt in range(3):
        job = job._replace(attempt=attempt)
        note.reserve([job])
        assert start_journal.started(tmp_path, NAME) == set()
        note.record(job)
        assert start_journal.started(tmp_path, NAME) == {job.id}
        note.forget([job])


def test_what_was_never_expected_does_not_begin(tmp_path: Path) -> None:
    note = StartJournal(tmp_path, NAME, 1)
    assert not note.record(claimed()), "it is not one of this consumer's"
    note.forget([claimed()])
    assert start_journal.started(tmp_path, NAME) == set()


def test_threads_that_begin_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    note, jobs = StartJournal(tmp_path, NAME, 500), [claimed() for _ in range(500)]
    note.reserve(jobs)
    threads = [
        threading.Thread(target=lambda part: [note.record(job) for job in part], args=[jobs[i::10]])
        for i in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert start_journal.started(tmp_path, NAME) == {job.id for job in jobs}


WRITER = """
import django; django.setup()
import os, signal, sys
from pathlib import Path
from uuid import UUID
from djjp.engine import Claimed
from djjp.consumer.start_journal import StartJournal

note = StartJournal(Path(sys.argv[1]), sys.argv[2], 2)
running, waiting = [Claimed(UUID(id), "test.job", "{}", 1, 0) for id in sys.argv[3:]]
note.reserve([running, waiting])
note.record(running)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_note_outlives_a_process_that_is_killed(tmp_path: Path) -> None:
    running, waiting = new_id(), new_id()
    killed = subprocess.run(
        [sys.executable, "-c", WRITER, tmp_path, NAME, str(running), str(waiting)],
        cwd=ROOT,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert start_journal.started(tmp_path, NAME) == {running}


def test_a_note_from_before_a_reboot_says_nothing(tmp_path: Path) -> None:
    """What was mapped into memory may not have come to the disk."""
    note, job = StartJournal(tmp_path, NAME, 1), claimed()
    note.reserve([job])
    note.record(job)
    path = tmp_path / "some.host-7-0af3.begun"
    path.write_bytes(b"another boot".ljust(64, b"\0") + path.read_bytes()[64:])
    assert start_journal.started(tmp_path, NAME) is None


def test_a_machine_that_does_not_tell_its_boots_keeps_no_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    StartJournal(tmp_path, "other:7:1", 1)
    monkeypatch.setattr(start_journal, "_boot", lambda: None)
    note, job = StartJournal(tmp_path, NAME, 1), claimed()
    note.reserve([job])
    assert note.record(job)
    note.forget([job])
    assert start_journal.started(tmp_path, NAME) is None
    assert start_journal.started(tmp_path, "other:7:1") is None
    assert not note.is_suspected()
    assert [path.name for path in tmp_path.iterdir()] == ["other-7-1.begun"]
    note.close()


def test_where_nobody_noted_anything_nobody_knows(tmp_path: Path) -> None:
    assert start_journal.started(tmp_path, NAME) is None
    assert start_journal.started(None, NAME) is None
    note = StartJournal(None, NAME, 1)
    note.reserve([job := claimed()])
    assert note.record(job)
    note.forget([job])
    note.close()
    start_journal.clear(None, NAME)
    start_journal.suspect(None, NAME)


def test_an_ended_consumer_leaves_no_note(tmp_path: Path) -> None:
    note = StartJournal(tmp_path, NAME, 2)
    note.reserve([job := claimed()])
    note.record(job)
    note.close()
    assert list(tmp_path.iterdir()) == []
    assert not note.record(job)
    note.close()
    assert list(tmp_path.iterdir()) == []


def test_a_dead_consumers_files_are_cleared_and_those_of_others_stay(tmp_path: Path) -> None:
    StartJournal(tmp_path, NAME, 1)
    StartJournal(tmp_path, "some.host:7:0af4", 1)
    for name in ("some.host-7-0af3.lock", "some.host-7-0af4.lock"):
        (tmp_path / name).touch()
    start_journal.clear(tmp_path, NAME)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "some.host-7-0af4.begun",
        "some.host-7-0af4.lock",
    ]
    start_journal.clear(tmp_path, NAME)


def test_a_full_disk_keeps_no_consumer_from_its_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does a folder that has gone."""
    note, job = StartJournal(tmp_path / "gone", NAME, 1), claimed()
    note.reserve([job])
    assert note.record(job)
    note.close()
    assert "keeps no start journal" in caplog.text


# One that was taken for dead, and lives


def beginning(note: StartJournal, job: Claimed) -> tuple[threading.Thread, list[bool]]:
    """A thread that is about to run a job."""
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(note.record(job)), daemon=True)
    thread.start()
    eventually(lambda: start_journal.started(note._path.parent, NAME) == {job.id})  # type: ignore[union-attr]
    time.sleep(0.1)
    return thread, answers


def test_while_it_is_doubted_a_job_is_noted_and_waits(tmp_path: Path) -> None:
    """So whoever rescues reads it as begun, or it will not begin here any more."""
    note, job = StartJournal(tmp_path, NAME, 1), claimed()
    note.reserve([job])
    assert not note.is_suspected()
    start_journal.suspect(tmp_path, NAME)
    assert note.is_suspected()
    assert start_journal.started(tmp_path, NAME) == set(), "the note is still believed"

    thread, answers = beginning(note, job)
    assert answers == []

    note.clear_suspicion()
    thread.join(10)
    assert answers == [True]
    assert not note.is_suspected()
    note.close()


def test_one_that_was_rescued_does_not_begin_what_waited(tmp_path: Path) -> None:
    note, job = StartJournal(tmp_path, NAME, 1), claimed()
    note.reserve([job])
    start_journal.suspect(tmp_path, NAME)
    thread, answers = beginning(note, job)

    note.close()

    thread.join(10)
    assert answers == [False]


def test_nobody_is_doubted_who_left_no_note(tmp_path: Path) -> None:
    start_journal.suspect(tmp_path, NAME)
    assert list(tmp_path.iterdir()) == []
