"""The start journal: the claimed jobs that have started, as other consumers read them after a death."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
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


def test_the_journal_has_the_jobs_that_have_started_and_have_not_ended(tmp_path: Path) -> None:
    journal = StartJournal(tmp_path, NAME, 4)
    waiting, running, ended = jobs = [claimed() for _ in range(3)]
    journal.reserve(jobs)
    assert start_journal.started(tmp_path, NAME) == set()

    journal.record(running)
    journal.record(ended)
    assert start_journal.started(tmp_path, NAME) == {running.key, ended.key}

    journal.forget([ended])
    assert start_journal.started(tmp_path, NAME) == {running.key}
    journal.forget([waiting, running])
    assert start_journal.started(tmp_path, NAME) == set()


def test_cells_are_reused(tmp_path: Path) -> None:
    journal = StartJournal(tmp_path, NAME, 3)
    size = (tmp_path / "some.host-7-0af3.journal").stat().st_size
    held: list[Claimed] = []
    for _ in range(50):
        held.append(claimed())
        journal.reserve([held[-1]])
        journal.record(held[-1])
        if len(held) == 3:
            assert start_journal.started(tmp_path, NAME) == {job.key for job in held}
            journal.forget([held.pop(0)])
    assert (tmp_path / "some.host-7-0af3.journal").stat().st_size == size


def test_a_job_that_is_claimed_again_is_recorded_again(tmp_path: Path) -> None:
    journal, job = StartJournal(tmp_path, NAME, 1), claimed()
    for attempt in range(3):
        job = job._replace(claim=attempt)
        journal.reserve([job])
        assert start_journal.started(tmp_path, NAME) == set()
        journal.record(job)
        assert start_journal.started(tmp_path, NAME) == {job.key}
        journal.forget([job])


def test_a_job_without_a_reserved_cell_does_not_start(tmp_path: Path) -> None:
    journal = StartJournal(tmp_path, NAME, 1)
    assert not journal.record(claimed()), "it is not one of this consumer's"
    journal.forget([claimed()])
    assert start_journal.started(tmp_path, NAME) == set()


def test_threads_record_starts_at_the_same_time(tmp_path: Path) -> None:
    journal, jobs = StartJournal(tmp_path, NAME, 500), [claimed() for _ in range(500)]
    journal.reserve(jobs)
    threads = [
        threading.Thread(
            target=lambda part: [journal.record(job) for job in part], args=[jobs[i::10]]
        )
        for i in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert start_journal.started(tmp_path, NAME) == {job.key for job in jobs}


WRITER = """
import django; django.setup()
import os, signal, sys
from pathlib import Path
from uuid import UUID
from djjp.engine import Claimed
from djjp.consumer.start_journal import StartJournal

journal = StartJournal(Path(sys.argv[1]), sys.argv[2], 2)
running, waiting = [Claimed(UUID(id), "test.job", "{}", 1, 0) for id in sys.argv[3:]]
journal.reserve([running, waiting])
journal.record(running)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_journal_outlives_a_killed_process(tmp_path: Path) -> None:
    running, waiting = new_id(), new_id()
    killed = subprocess.run(
        [sys.executable, "-c", WRITER, tmp_path, NAME, str(running), str(waiting)],
        cwd=ROOT,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert start_journal.started(tmp_path, NAME) == {(running, 0)}


def test_a_journal_from_before_a_reboot_is_ignored(tmp_path: Path) -> None:
    """The mapped memory was perhaps not written to the disk."""
    journal, job = StartJournal(tmp_path, NAME, 1), claimed()
    journal.reserve([job])
    journal.record(job)
    path = tmp_path / "some.host-7-0af3.journal"
    path.write_bytes(b"another boot".ljust(64, b"\0") + path.read_bytes()[64:])
    assert start_journal.started(tmp_path, NAME) is None


def test_a_machine_that_does_not_identify_its_boots_keeps_no_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    StartJournal(tmp_path, "other:7:1", 1)
    monkeypatch.setattr(start_journal, "_boot", lambda: None)
    journal, job = StartJournal(tmp_path, NAME, 1), claimed()
    journal.reserve([job])
    assert journal.record(job)
    journal.forget([job])
    assert start_journal.started(tmp_path, NAME) is None
    assert start_journal.started(tmp_path, "other:7:1") is None
    assert not journal.is_suspected()
    assert [path.name for path in tmp_path.iterdir()] == ["other-7-1.journal"]
    journal.close()


def test_without_a_journal_the_started_jobs_are_unknown(tmp_path: Path) -> None:
    assert start_journal.started(tmp_path, NAME) is None
    assert start_journal.started(None, NAME) is None
    journal = StartJournal(None, NAME, 1)
    journal.reserve([job := claimed()])
    assert journal.record(job)
    journal.forget([job])
    journal.close()
    start_journal.clear(None, NAME)
    start_journal.suspect(None, NAME)


def test_an_ended_consumer_leaves_no_journal(tmp_path: Path) -> None:
    journal = StartJournal(tmp_path, NAME, 2)
    journal.reserve([job := claimed()])
    journal.record(job)
    journal.close()
    assert list(tmp_path.iterdir()) == []
    assert not journal.record(job)
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_a_dead_consumers_files_are_cleared_and_those_of_others_stay(tmp_path: Path) -> None:
    StartJournal(tmp_path, NAME, 1)
    StartJournal(tmp_path, "some.host:7:0af4", 1)
    for name in ("some.host-7-0af3.lock", "some.host-7-0af4.lock"):
        (tmp_path / name).touch()
    start_journal.clear(tmp_path, NAME)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "some.host-7-0af4.journal",
        "some.host-7-0af4.lock",
    ]
    start_journal.clear(tmp_path, NAME)


def test_without_a_journal_jobs_still_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a full disk: the folder of the journals is gone."""
    journal, job = StartJournal(tmp_path / "gone", NAME, 1), claimed()
    journal.reserve([job])
    assert journal.record(job)
    journal.close()
    assert "keeps no start journal" in caplog.text


# A consumer that was suspected or declared dead, and lives


def starting(journal: StartJournal, job: Claimed) -> tuple[threading.Thread, list[bool]]:
    """Start a thread that is about to run a job."""
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(journal.record(job)), daemon=True)
    thread.start()
    eventually(lambda: start_journal.started(journal._path.parent, NAME) == {job.key})  # type: ignore[union-attr]
    time.sleep(0.1)
    return thread, answers


def test_a_job_of_a_suspected_consumer_is_recorded_and_waits(tmp_path: Path) -> None:
    """So a rescue reads it as started, or it does not start here any more."""
    journal, job = StartJournal(tmp_path, NAME, 1), claimed()
    journal.reserve([job])
    assert not journal.is_suspected()
    start_journal.suspect(tmp_path, NAME)
    assert journal.is_suspected()
    assert start_journal.started(tmp_path, NAME) == set(), "the journal is still valid"

    thread, answers = starting(journal, job)
    assert answers == []

    journal.clear_suspicion()
    thread.join(30)
    assert answers == [True]
    assert not journal.is_suspected()
    journal.close()


def test_a_rescued_consumer_does_not_start_its_waiting_jobs(tmp_path: Path) -> None:
    journal, job = StartJournal(tmp_path, NAME, 1), claimed()
    journal.reserve([job])
    start_journal.suspect(tmp_path, NAME)
    thread, answers = starting(journal, job)

    journal.close()

    thread.join(30)
    assert answers == [False]


def test_suspecting_a_consumer_without_a_journal_does_nothing(tmp_path: Path) -> None:
    start_journal.suspect(tmp_path, NAME)
    assert list(tmp_path.iterdir()) == []


def test_a_job_of_a_consumer_that_was_declared_dead_never_starts(
    tmp_path: Path,
) -> None:
    journal, jobs = StartJournal(tmp_path, NAME, 2), [claimed(), claimed()]
    journal.reserve(jobs)
    start_journal.suspect(tmp_path, NAME)
    start_journal.clear(tmp_path, NAME)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(journal.record, jobs[0])
        time.sleep(0.2)
        assert not first.done()

        journal.close()

        assert first.result(30) is False
    assert journal.record(jobs[1]) is False


# The file was removed

FILE = "some.host-7-0af3.journal"


@pytest.mark.parametrize("replaced", [False, True])
def test_a_journal_that_was_removed_is_made_anew_with_the_starts_it_had(
    tmp_path: Path, replaced: bool
) -> None:
    journal = StartJournal(tmp_path, NAME, 2)
    before, after = jobs = [claimed(), claimed()]
    journal.reserve(jobs)
    journal.record(before)
    assert not journal.renew(tmp_path), "nothing has happened"
    (tmp_path / FILE).unlink()
    if replaced:
        (tmp_path / FILE).write_bytes(b"of another program")

    assert journal.renew(tmp_path)

    assert start_journal.started(tmp_path, NAME) == {before.key}
    assert not journal.renew(tmp_path)
    journal.clear_suspicion()
    assert journal.record(after)
    assert start_journal.started(tmp_path, NAME) == {before.key, after.key}
    journal.forget(jobs)
    assert start_journal.started(tmp_path, NAME) == set()
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_no_job_starts_between_a_new_journal_and_the_heartbeat(tmp_path: Path) -> None:
    """Another consumer can have set the flag in the old file, and have read either."""
    journal, job = StartJournal(tmp_path, NAME, 1), claimed()
    journal.reserve([job])
    (tmp_path / FILE).unlink()
    journal.renew(tmp_path)
    thread, answers = starting(journal, job)
    assert answers == []

    journal.clear_suspicion()

    thread.join(30)
    assert answers == [True]


def test_a_job_that_waits_to_start_is_in_the_new_journal_before_it_starts(tmp_path: Path) -> None:
    journal, job = StartJournal(tmp_path, NAME, 1), claimed()
    journal.reserve([job])
    start_journal.suspect(tmp_path, NAME)
    thread, answers = starting(journal, job)
    path = tmp_path / FILE
    cells = slice(start_journal._HEADER, None)
    path.unlink()
    assert journal._map is not None
    journal._map[cells] = bytes(len(journal._map[cells]))  # as if it were recorded after the copy

    journal.renew(tmp_path)

    eventually(lambda: start_journal.started(tmp_path, NAME) == {job.key})
    assert answers == []
    journal.clear_suspicion()
    thread.join(30)
    assert answers == [True]


def test_no_start_is_missed_while_the_file_is_made_anew_again_and_again(tmp_path: Path) -> None:
    journal, jobs = StartJournal(tmp_path, NAME, 400), [claimed() for _ in range(400)]
    journal.reserve(jobs)

    def start(part: list[Claimed]) -> None:
        for job in part:
            assert journal.record(job)
            time.sleep(0.001)

    threads = [threading.Thread(target=start, args=[jobs[i::4]]) for i in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        (tmp_path / FILE).unlink()
        assert journal.renew(tmp_path)
        journal.clear_suspicion()
        time.sleep(0.002)
    for thread in threads:
        thread.join()

    assert start_journal.started(tmp_path, NAME) == {job.key for job in jobs}


def test_a_journal_that_cannot_be_made_anew_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    journal, job = StartJournal(folder, NAME, 1), claimed()
    journal.reserve([job])
    (folder / FILE).unlink()
    folder.rmdir()

    for _ in range(3):
        assert journal.renew(folder)
        journal.clear_suspicion()

    assert caplog.text.count("keeps no start journal") == 1
    assert journal.record(job)
    folder.mkdir()
    assert journal.renew(folder)
    assert start_journal.started(folder, NAME) == {job.key}
