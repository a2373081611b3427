"""The options of one call: what `using()` stores with it, and that its execution obeys them."""

from __future__ import annotations

import asyncio
import json
import pickle
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from djjp import arun_many, call_options, chain, get_job, group, job, run_many
from djjp.engine import Engine
from djjp.exceptions import JobFailed
from djjp.jobs import registry
from djjp.models import Flag, Job, State
from djjp.testing import drain as drain_here
from djjp.testing import inline
from tests.project.shop.jobs import add, mail
from tests.support.consumers import consuming, drain
from tests.support.factories import new_job


@job(name="call.fails")
def fails() -> None:
    raise OSError("again")


@job(name="call.sleeps")
def sleeps(seconds: float = 60.0) -> str:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.01)
    return "awake"


@job(name="call.asleeps", timeout=0.05)
async def asleeps(seconds: float = 60.0) -> str:
    await asyncio.sleep(seconds)
    return "awake"


def row() -> Job:
    return Job.objects.get()


def test_a_plain_call_stores_nothing(engine: Engine) -> None:
    add.using(queue="bulk", priority=3, run_after=60).run_later(1)
    assert (row().options, row().flags) == (None, 0)
    assert not add.using(priority=3).options.has_constraints


def test_the_options_of_a_call_are_on_its_row_and_its_handle(engine: Engine) -> None:
    handle = add.using(
        timeout=timedelta(minutes=1), max_attempts=3, backoff=[1, timedelta(minutes=1)]
    ).run_later(1)
    assert row().flags == Flag.OPTIONS
    assert json.loads(row().options or "") == handle.options
    assert handle.options == {"timeout": 60.0, "max_attempts": 3, "backoff": [1.0, 60.0]}
    assert (add.options.timeout, add.options.max_attempts) == (None, None)


def test_using_again_keeps_what_was_set_before(engine: Engine) -> None:
    handle = add.using(timeout=5).using(priority=1).using(max_attempts=2).run_later(1)
    assert handle.options == {"timeout": 5.0, "max_attempts": 2}


def test_none_takes_the_limit_of_the_job_away(engine: Engine) -> None:
    handle = asleeps.using(timeout=None).run_later(0.1)
    assert handle.options == {"timeout": None}
    drain()
    assert handle.join(0) == "awake"


@pytest.mark.parametrize(
    ("given", "kind", "says"),
    [
        ({"timeout": 0}, ValueError, "timeout is 0; it must be above 0"),
        ({"timeout": "5"}, ValueError, "timeout is '5'"),
        ({"timeout": float("nan")}, ValueError, "timeout is nan"),
        ({"max_attempts": 0}, ValueError, "max_attempts is 0"),
        ({"backoff": lambda n: n}, TypeError, "belongs in @job(backoff=...)"),
        ({"backoff": []}, ValueError, "1 to 100"),
        ({"backoff": [1] * 101}, ValueError, "101 pauses"),
        ({"backoff": "5"}, ValueError, "backoff is '5'"),
        ({"tags": "billing"}, TypeError, "tags is 'billing'; it must be a list of texts"),
        ({"tags": [7]}, ValueError, "a tag in tags is 7; it must be a text of 1 to 100"),
        ({"tags": [""]}, ValueError, "of 0 characters"),
        ({"tags": ["x" * 101]}, ValueError, "of 101 characters"),
        ({"tags": ["a\0"]}, ValueError, "NUL"),
        ({"tags": [str(n) for n in range(11)]}, ValueError, "11 tags; a job has at most 10"),
        ({"run_after": True}, TypeError, "run_after is True"),
        ({"run_after": float("nan")}, ValueError, "run_after is nan"),
        ({"run_after": float("inf")}, ValueError, "run_after is inf"),
    ],
)
def test_an_invalid_value_is_refused(
    given: dict[str, Any], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind) as caught:
        add.using(**given)
    assert says in str(caught.value)


def test_run_after_takes_seconds_as_a_timedelta(engine: Engine) -> None:
    now = time.time()
    for after in (90, 90.5, timedelta(seconds=90)):
        due = add.using(run_after=after).bind(1).to_row(now=now).run_after
        assert due == pytest.approx(now + 90, abs=1)
    assert add.using(run_after=-5).run_later(1).state == "ready"
    at = datetime(2100, 1, 1, tzinfo=UTC)
    assert add.using(run_after=at).bind(1).to_row().run_after == at.timestamp()


# Obeyed


def test_a_consumer_obeys_the_attempts_and_the_backoff_of_a_call(engine: Engine) -> None:
    handle = fails.using(max_attempts=3, backoff=0).run_later()
    plain = fails.run_later()
    drain()
    assert len(handle.errors) == 3
    assert len(plain.errors) == 1


def test_a_retried_job_keeps_the_options_of_its_call(engine: Engine) -> None:
    handle = fails.using(max_attempts=2, backoff=0, tags=["kept"]).run_later()
    drain()
    assert handle.retry()
    drain()
    handle.refresh()
    assert (len(handle.errors), handle.tags) == (4, ["kept"])


@pytest.mark.parametrize("concurrency", ["threads", "asyncio"])
@pytest.mark.parametrize("task", [sleeps, asleeps])
def test_a_consumer_obeys_the_timeout_of_a_call(
    engine: Engine, concurrency: str, task: Any
) -> None:
    handle = task.using(timeout=0.1).run_later()
    longer = pytest.raises(JobFailed, match=r"longer than its timeout of 0\.1 s")
    with consuming(concurrency=concurrency), longer:
        handle.join(30)


def test_a_backoff_of_a_call_delays_its_next_attempt(engine: Engine) -> None:
    handle = fails.using(max_attempts=2, backoff=timedelta(hours=1)).run_later()
    assert drain_here() == 1
    assert (handle.state, handle.attempts) == ("ready", 1)
    handle.refresh()
    assert handle.state == "scheduled"
    assert row().run_after is not None


def test_inline_obeys_them(engine: Engine) -> None:
    with inline():
        handle = fails.using(max_attempts=2, backoff=0).run_later()
    assert len(handle.errors) == 2


@pytest.mark.parametrize("many", [False, True])
def test_steps_of_pipelines_and_bulk_calls_have_them(engine: Engine, many: bool) -> None:
    call = fails.using(max_attempts=2, backoff=0, tags=["step"])
    if many:
        handles = run_many([add.bind(1), call.bind(), call.bind(), add.bind(2)])
        failing = handles[1:3]
    else:
        pipeline = chain(add.bind(1), call.bind_alone())
        failing = [pipeline.run_later().steps[1]]
    drain()
    assert [(len(each.errors), each.tags) for each in failing] == [(2, ["step"])] * len(failing)


def test_coroutines_enqueue_with_them(engine: Engine) -> None:
    async def enqueue() -> list[Any]:
        one = await add.using(max_attempts=2, tags=["a"]).arun_later(1)
        return [one, *await arun_many([add.using(max_attempts=2, tags=["a"]).bind(1)])]

    for handle in asyncio.run(enqueue()):
        assert (handle.options, handle.tags) == ({"max_attempts": 2}, ["a"])


def test_a_pickle_of_a_bound_call_keeps_them(engine: Engine) -> None:
    bound = add.using(max_attempts=2, tags=["a"]).bind(1)
    handle = pickle.loads(pickle.dumps(bound)).run_later()  # noqa: S301  (its own)
    assert (handle.options, handle.tags) == ({"max_attempts": 2}, ["a"])


@pytest.mark.parametrize("text", ["", "7", '{"timeout":-1}', '{"backoff":"x"}'])
def test_options_by_hand_that_are_none_fail_their_job_alone(engine: Engine, text: str) -> None:
    broken = new_job(name=add.name, arguments=add.bind(1).arguments, flags=Flag.OPTIONS)
    engine.jobs.enqueue(broken._replace(options=text))
    other = add.using(max_attempts=2).run_later(1)
    drain()
    assert (get_job(broken.id).state, other.join(0)) == ("failed", 1)
    assert get_job(broken.id).options == {}


def test_an_option_of_newer_code_is_ignored() -> None:
    assert call_options.from_text('{"timeout":5,"invented_later":1}') == {"timeout": 5}


# Tags


@pytest.fixture
def tagged() -> Iterator[Any]:
    yield job(name="call.tagged", tags=["billing", "nightly"])(lambda: None)
    del registry._jobs["call.tagged"]


def test_tags_of_the_job_and_of_the_call_add_up(engine: Engine, tagged: Any) -> None:
    handle = tagged.using(tags=["tenant-42", "billing"]).using(tags=("vip",)).run_later()
    assert handle.tags == ["billing", "nightly", "tenant-42", "vip"]
    assert row().tags == handle.tags
    assert row().flags == Flag.TAGGED
    assert {tag.tag for tag in row().tag_rows.all()} == {*handle.tags}
    assert tagged.run_later().tags == ["billing", "nightly"]
    with pytest.raises(ValueError, match="11 tags; a job has at most 10"):
        tagged.using(tags=[f"t{n}" for n in range(9)])


def test_the_handle_of_a_pipeline_has_the_tags_of_its_jobs(engine: Engine) -> None:
    one, two = add.using(tags=["b", "a"]), add.using(tags=["b", "c"])
    assert chain(one.bind(1), add.bind(), two.bind()).run_later().tags == ["a", "b", "c"]
    assert group(one.bind(1), add.bind(1)).run_later().tags == ["a", "b"]
    assert chain(add.bind(1)).run_later().tags == []


def test_a_plain_handle_has_no_tags_and_says_what_it_is(engine: Engine) -> None:
    handle = mail.run_later("a@b.c")
    assert (handle.tags, handle.options, handle.name) == ([], {}, "shop.mail")
    assert abs((handle.created_at - datetime.now(UTC)).total_seconds()) < 60
    assert (handle.started_at, handle.finished_at, handle.ended) == (None, None, False)
    drain()
    handle.refresh()
    assert handle.ended
    assert handle.state == State.SUCCEEDED
    assert handle.started_at is not None
    assert handle.finished_at is not None
    assert handle.created_at <= handle.started_at <= handle.finished_at


def test_a_schedule_enqueues_with_the_tags_of_its_job(engine: Engine, tagged: Any) -> None:
    assert json.loads(tagged.scheduled_call().to_row().options) == {"tags": ["billing", "nightly"]}
