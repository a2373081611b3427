"""A consumer that was taken for dead begins nothing more, until it has shown that it lives."""

from __future__ import annotations

import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from djjp import run_many
from djjp.consumer import start_journal
from djjp.consumer.start_journal import StartJournal
from djjp.engine import Claimed, Engine
from djjp.ids import new_id
from djjp.models import Job
from tests.project.shop.jobs import TALLY, tally
from tests.support.processes import Processes, eventually

NAME = "host:1:a"
# With a `frozen_limit` of seconds.
SOON_FROZEN = {"DJANGO_SETTINGS_MODULE": "tests.chaos.settings"}


def claimed() -> Claimed:
    return Claimed(new_id(), "test.job", "{}", 1, 0)


@pytest.fixture
def note(tmp_path: Path) -> Iterator[StartJournal]:
    note = StartJournal(tmp_path, NAME, 4)
    yield note
    note.close()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def waits(answer: Future[bool]) -> bool:
    """Whether it has no answer after a while in which it could have had one."""
    threading.Event().wait(0.2)
    return not answer.done()


def test_a_job_begins_where_nobody_doubts(note: StartJournal) -> None:
    job = claimed()
    note.reserve([job])

    assert not note.is_suspected()
    assert note.record(job)


def test_a_job_of_a_doubted_consumer_waits_and_is_read_as_begun(
    note: StartJournal, tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    job = claimed()
    note.reserve([job])
    start_journal.suspect(tmp_path, NAME)
    answer = threads.submit(note.record, job)

    assert note.is_suspected()
    assert waits(answer)
    assert start_journal.started(tmp_path, NAME) == {job.id}

    note.clear_suspicion()
    assert answer.result(10) is True
    assert not note.is_suspected()


def test_a_job_of_a_consumer_that_was_buried_never_begins(
    note: StartJournal, tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    jobs = [claimed(), claimed()]
    note.reserve(jobs)
    start_journal.suspect(tmp_path, NAME)
    start_journal.clear(tmp_path, NAME)
    first = threads.submit(note.record, jobs[0])
    assert waits(first)

    note.close()

    assert first.result(10) is False
    assert note.record(jobs[1]) is False


def test_to_doubt_one_that_has_left_no_note_harms_nothing(tmp_path: Path) -> None:
    start_journal.suspect(tmp_path, NAME)
    start_journal.suspect(None, NAME)

    assert start_journal.started(tmp_path, NAME) is None


def test_a_consumer_that_can_write_no_note_begins_its_jobs_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    note, job = StartJournal(tmp_path / "gone", NAME, 4), claimed()
    note.reserve([job])

    assert note.record(job)
    assert "keeps no start journal" in caplog.text


def in_a_turn(engine: Engine) -> bool:
    """Whether a transaction is open in which somebody writes to the queue."""
    if engine.db.alias == "sqlite":
        name = engine.db.connection.settings_dict["NAME"]
        with closing(sqlite3.connect(name, timeout=0.2, isolation_level=None)) as other:
            try:
                other.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            return False
    with engine.db.connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND xact_start IS NOT NULL AND backend_type = 'client backend'"
        )
        return bool(cursor.fetchone()[0])


def test_what_a_frozen_consumer_had_in_line_is_not_run_again_when_it_wakes(
    processes: Processes, engine: Engine
) -> None:
    """Its line is given back as not begun; the threads that wake must not begin it."""
    TALLY.unlink(missing_ok=True)
    run_many(tally.bind(str(i)) for i in range(20_000))
    frozen = processes.start("start_consumer", **SOON_FROZEN)
    running = Job.objects.filter(state="running")
    for _ in range(100):
        eventually(lambda: running.count() > 50)
        frozen.send_signal(signal.SIGSTOP)
        if running.count() > 50 and not in_a_turn(engine):
            break
        frozen.send_signal(signal.SIGCONT)
    name = running.values_list("consumer", flat=True)[0]

    other = processes.start("start_consumer", **SOON_FROZEN)
    eventually(lambda: not Job.objects.exclude(state="succeeded").exists(), within=90)
    frozen.send_signal(signal.SIGCONT)
    codes = [processes.end(consumer)[0] for consumer in (frozen, other)]

    assert codes == [0, 0]
    assert Job.objects.filter(consumer=name).exists()
    executions = Counter(line.split()[0] for line in TALLY.read_text().splitlines())
    times = Counter(executions.values())
    rescued = Job.objects.filter(rescues=1).count()
    assert (times[1] + times[2], times[2]) == (20_000, rescued)
