"""Enqueues on both databases: each row complete, each chunk whole or not at all."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.test.utils import CaptureQueriesContext

from djjp import codec
from djjp.engine import Engine
from djjp.models import Flag, Job, OnCrash, State
from tests.support.engine_calls import (
    NOW,
    at_once,
    claim,
    done,
    finish,
    row,
)
from tests.support.factories import new_job

# Texts with a special meaning in the input of COPY.
ODD_TEXTS = [
    "\\N",
    "\\.",
    "\\",
    "a\tb",
    "a\nb\r\n",
    "\\t\\\\n",
    "é\u2028\x85\x1f😀",
    "'\";--%s",
    " ",
]


@pytest.mark.parametrize("text", ODD_TEXTS, ids=ascii)
def test_any_text_is_stored_unchanged_alone_and_in_a_chunk(engine: Engine, text: str) -> None:
    given = {"name": text, "queue": text, "arguments": text, "created_at": NOW}
    jobs = [new_job(**given, priority=n, run_after=NOW + n if n else None) for n in range(4)]
    engine.jobs.enqueue(jobs[0])
    engine.jobs.enqueue_many(jobs[1:])

    for job in jobs:
        found = row(job.id)
        assert {key: found[key] for key in ("name", "queue", "arguments")} == dict.fromkeys(
            ("name", "queue", "arguments"), text
        )
        assert found["priority"] == job.priority
        assert found["created_at"] == datetime.fromtimestamp(NOW, UTC)
        due = None if job.run_after is None else datetime.fromtimestamp(job.run_after, UTC)
        assert found["run_after"] == due


def test_an_enqueued_job_is_a_row_with_all_given_values(engine: Engine) -> None:
    job = new_job(
        name="shop.mail",
        queue="mail",
        priority=-7,
        state=State.SCHEDULED,
        run_after=NOW + 60,
        created_at=NOW,
        arguments='{"args":[1],"kwargs":{"copy_to":"a@b.c"}}',
        on_crash=OnCrash.FAIL,
    )
    engine.jobs.enqueue(job)
    assert row(job.id) == {
        "id": job.id,
        "name": "shop.mail",
        "queue": "mail",
        "priority": -7,
        "state": "scheduled",
        "attempts": 0,
        "rescues": 0,
        "claim": 0,
        "run_after": datetime.fromtimestamp(NOW + 60, UTC),
        "created_at": datetime.fromtimestamp(NOW, UTC),
        "started_at": None,
        "finished_at": None,
        "consumer": None,
        "arguments": '{"args":[1],"kwargs":{"copy_to":"a@b.c"}}',
        "result": None,
        "on_crash": "fail",
        "unique_key": None,
        "limit_key": None,
        "limit_max": None,
        "limit_per": None,
        "expires_at": None,
        "cancel_requested": False,
        "reason": None,
        "progress_done": None,
        "progress_total": None,
        "flags": 0,
        "pipeline": None,
        "waits_for": 0,
        "input": None,
        "options": None,
        "context": {},
    }


def test_a_job_of_a_chunk_is_written_like_one_alone(engine: Engine) -> None:
    given = {"queue": "mail", "priority": 3, "created_at": NOW, "run_after": NOW, "arguments": "[]"}
    alone, together = new_job(**given), new_job(**given)
    engine.jobs.enqueue(alone)
    engine.jobs.enqueue_many([together])
    assert row(together.id) | {"id": None} == row(alone.id) | {"id": None}


def test_an_enqueue_is_one_statement(engine: Engine) -> None:
    engine.jobs.enqueue(new_job())
    for state in (State.READY, State.SCHEDULED):
        job = new_job(state=state, run_after=NOW)
        with CaptureQueriesContext(engine.db.connection) as captured:
            engine.jobs.enqueue(job)
        assert len(captured) == 1, captured.captured_queries


def test_an_enqueued_job_is_visible_to_other_connections_at_once(engine: Engine) -> None:
    job = new_job()
    engine.jobs.enqueue(job)
    [seen] = at_once(lambda _: Job.objects.filter(id=job.id).exists())
    assert seen


def test_an_enqueue_inside_a_transaction_commits_or_rolls_back_with_it(engine: Engine) -> None:
    kept, lost = new_job(), new_job()
    with transaction.atomic(using=engine.db.alias):
        engine.jobs.enqueue(kept)

    def roll_back() -> None:
        with transaction.atomic(using=engine.db.alias):
            engine.jobs.enqueue(lost)
            engine.jobs.enqueue_many([new_job(), new_job()])
            raise KeyError

    with pytest.raises(KeyError):
        roll_back()
    assert [job.id for job in Job.objects.all()] == [kept.id]


def test_a_chunk_is_written_whole_or_not_at_all(engine: Engine) -> None:
    with pytest.raises(IntegrityError):
        engine.jobs.enqueue_many([new_job(), new_job(), new_job(name=None), new_job()])
    assert not Job.objects.exists()


@pytest.mark.parametrize("flags", [0, Flag.OPTIONS], ids=["plain", "with options"])
@pytest.mark.parametrize("size", [1, 2, 3, 31, 32, 33, 63, 64, 65, 200])
def test_each_job_of_a_chunk_of_any_size_is_one_row(engine: Engine, size: int, flags: int) -> None:
    options = '{"tags": []}' if flags else None
    jobs = [new_job(arguments=f"[{n}]", flags=flags, options=options) for n in range(size)]
    engine.jobs.enqueue_many(jobs)
    written = Job.objects.values_list("id", "arguments", "options")
    assert sorted(written) == sorted((job.id, job.arguments, options) for job in jobs)


@pytest.mark.parametrize("refused", [0, 70, 199])
def test_a_large_chunk_is_written_whole_or_not_at_all(engine: Engine, refused: int) -> None:
    jobs = [new_job() for _ in range(200)]
    jobs[refused] = jobs[refused]._replace(name=None)  # type: ignore[arg-type]  # refused by the database
    with pytest.raises(IntegrityError):
        engine.jobs.enqueue_many(jobs)
    assert not Job.objects.exists()
    engine.jobs.enqueue_many([job for job in jobs if job.name])
    assert Job.objects.count() == 199


def test_a_job_that_is_enqueued_twice_with_one_id_is_one_row(engine: Engine) -> None:
    """As when a call is repeated because it is unknown whether its commit took place."""
    job, other = new_job(), new_job()
    engine.jobs.enqueue(job)
    engine.jobs.enqueue(job)
    engine.jobs.enqueue_many([job, other])
    assert {row.id for row in Job.objects.all()} == {job.id, other.id}


def test_a_refused_chunk_leaves_the_transaction_around_it_usable(engine: Engine) -> None:
    before, after = new_job(), new_job()
    with transaction.atomic(using=engine.db.alias):
        engine.jobs.enqueue(before)
        with pytest.raises(IntegrityError):
            engine.jobs.enqueue_many([new_job(), new_job(name=None)])
        engine.jobs.enqueue(after)
    assert {job.id for job in Job.objects.all()} == {before.id, after.id}


def test_an_empty_chunk_is_accepted(engine: Engine) -> None:
    engine.jobs.enqueue_many([])
    assert not Job.objects.exists()


HARD_TEXTS = {
    "NUL": codec.encode_value("a\0b\0", "x"),
    "beyond U+FFFF": codec.encode_value("a𝄞b\U0010ffff", "x"),
    "lone surrogate": codec.encode_value("a\ud800b", "x"),
    "raw non-ASCII": '"grüße 𝄞 \u2028 \x7f"',
    "control characters": codec.encode_value("".join(map(chr, range(32))), "x"),
    "quotes and backslashes": codec.encode_value("\\\"'%s%%$1?:x\\N\t", "x"),
    "empty": "",
    "looks like JSON null": "null",
    "5 MB": codec.encode_value("0123456789abcdé" * 350_000, "x"),
}


@pytest.mark.parametrize("text", HARD_TEXTS.values(), ids=HARD_TEXTS)
def test_arguments_and_results_come_back_character_by_character(engine: Engine, text: str) -> None:
    alone, together = new_job(arguments=text), new_job(arguments=text)
    engine.jobs.enqueue(alone)
    engine.jobs.enqueue_many([together])
    jobs = claim(engine)
    assert [job.arguments == text for job in jobs] == [True, True]
    assert finish(engine, "one", *(done(job, text) for job in jobs)) == {alone.id, together.id}
    for id in (alone.id, together.id):
        assert row(id)["arguments"] == text
        assert row(id)["result"] == text


def test_no_executemany_inserts_rows_where_a_tool_observes_the_cursors(engine: Engine) -> None:
    """django-debug-toolbar replaces the cursor of a connection, and fails in `executemany()`."""
    connection: Any = engine.db.connection
    original = connection.cursor

    def observed(*arguments: Any) -> Any:
        cursor = original(*arguments)
        cursor.executemany = None
        return cursor

    plain = [new_job() for _ in range(3)]
    connection.cursor = observed
    try:
        engine.jobs.enqueue_many(plain)
        engine.jobs.enqueue_many(plain)  # once more, as after a lost answer
        engine.jobs.enqueue_many([new_job(unique_key=key, flags=Flag.UNIQUE) for key in "ab"])
    finally:
        del connection.cursor

    assert Job.objects.count() == 5
