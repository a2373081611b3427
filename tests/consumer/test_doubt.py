"""A consumer that was taken for dead begins nothing more, until it has shown that it lives."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from djjp.claims import Claimed
from djjp.consumer import begun
from djjp.consumer.begun import Begun
from djjp.ids import new_id

NAME = "host:1:a"


def claimed() -> Claimed:
    return Claimed(new_id(), "test.job", "{}", 1, 0)


@pytest.fixture
def note(tmp_path: Path) -> Iterator[Begun]:
    note = Begun(tmp_path, NAME, 4)
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


def test_a_job_begins_where_nobody_doubts(note: Begun) -> None:
    job = claimed()
    note.expect([job])

    assert not note.is_doubted()
    assert note.mark(job)


def test_a_job_of_a_doubted_consumer_waits_and_is_read_as_begun(
    note: Begun, tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    job = claimed()
    note.expect([job])
    begun.doubt(tmp_path, NAME)
    answer = threads.submit(note.mark, job)

    assert note.is_doubted()
    assert waits(answer)
    assert begun.begun(tmp_path, NAME) == {job.id}

    note.go_on()
    assert answer.result(10) is True
    assert not note.is_doubted()


def test_a_job_of_a_consumer_that_was_buried_never_begins(
    note: Begun, tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    jobs = [claimed(), claimed()]
    note.expect(jobs)
    begun.doubt(tmp_path, NAME)
    begun.clear(tmp_path, NAME)
    first = threads.submit(note.mark, jobs[0])
    assert waits(first)

    note.close()

    assert first.result(10) is False
    assert note.mark(jobs[1]) is False


def test_to_doubt_one_that_has_left_no_note_harms_nothing(tmp_path: Path) -> None:
    begun.doubt(tmp_path, NAME)
    begun.doubt(None, NAME)

    assert begun.begun(tmp_path, NAME) is None


def test_a_consumer_that_can_write_no_note_begins_its_jobs_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    note, job = Begun(tmp_path / "gone", NAME, 4), claimed()
    note.expect([job])

    assert note.mark(job)
    assert "notes nowhere" in caplog.text
