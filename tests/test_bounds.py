"""Values that the queue could not hold are refused where they are given, by every way in."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.test import override_settings

from djjp import Discard, bounds, chain, conf, group, job, queues, run_many, schedules
from djjp.consumer.serving import parse
from djjp.engine import Engine, KeyHolders, NewPipeline
from djjp.exceptions import EncodeError, PayloadTooLarge
from djjp.jobs import RegisteredJob, bound, enqueue, registry
from djjp.models import Job, Schedule, Source
from djjp.testing import drain
from tests.project.shop.jobs import add, echo

HALF = "a\ud800"


@pytest.fixture(autouse=True)
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the jobs that a test registers."""
    monkeypatch.setattr(registry, "_jobs", dict(registry._jobs))


# Names, queues, keys, priorities


@pytest.mark.parametrize("value", ["a\0b", HALF, "", "x" * 201, 7, b"bytes"])
@pytest.mark.parametrize("option", ["name", "queue", "unique_key"])
def test_a_text_that_no_column_holds_is_refused(option: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^{option} is "):
        job(**{"name": "shop.bounded", option: value})(lambda: None)


@pytest.mark.parametrize("value", ["a\0b", HALF, "", "x" * 101, 7])
def test_a_call_cannot_have_such_a_queue_either(engine: Engine, value: Any) -> None:
    with pytest.raises(ValueError, match=r"^queue is "):
        add.using(queue=value)
    with pytest.raises(ValueError, match=r"^the queue is "):
        queues.pause(value)
    assert queues.resume(value) is False


@pytest.mark.parametrize(
    "value", ["x" * 100, "\N{SNOWMAN}" * 100, "\N{PILE OF POO}" * 100], ids=range(3)
)
def test_the_longest_names_fit_into_the_columns(engine: Engine, value: str) -> None:
    named = job(name=2 * value, queue=value, unique_key=2 * value)(lambda: None)
    handle = named.run_later()
    run_many([named.using(priority=32767, unique_key="k").bind()])
    queues.pause(value)
    assert queues.resume(value)
    assert Job.objects.get(pk=handle.id).queue == value
    assert drain() == 2


@pytest.mark.parametrize("value", [32_768, -32_769, 2**63, 1.5, True, "1", None])
def test_a_priority_beyond_its_column_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^priority is "):
        job(name="shop.bounded", priority=value)(lambda: None)


def test_a_consumer_serves_no_queue_that_cannot_be() -> None:
    for name in ("a\0", HALF, f"{HALF}:3"):
        with pytest.raises(ValueError, match="no queue has NUL characters or lone surrogates"):
            parse([name])


# Times

TOO_LATE: list[Any] = [
    datetime.max,
    datetime.max.replace(tzinfo=UTC),
    datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))),
    datetime.max.replace(tzinfo=timezone(timedelta(hours=14))),
    datetime(9999, 1, 1, tzinfo=UTC),
    datetime(9999, 6, 1),
    timedelta.max,
    timedelta(days=365 * 8000),
]
LONG_AGO: list[Any] = [
    datetime.min,
    datetime.min.replace(tzinfo=UTC),
    datetime.min.replace(tzinfo=ZoneInfo("Asia/Tokyo")),
    datetime(1969, 12, 31, tzinfo=UTC),
    datetime(1901, 1, 1, 0, 0, 0, 1),
    timedelta.min,
    timedelta(days=-365 * 100),
]


@pytest.mark.parametrize("use_tz", [True, False])
@pytest.mark.parametrize("value", TOO_LATE, ids=repr)
def test_a_time_that_never_comes_is_refused(engine: Engine, value: Any, use_tz: bool) -> None:
    with (
        override_settings(USE_TZ=use_tz),
        pytest.raises(ValueError, match=r"^run_after is .*year 9999"),
    ):
        add.using(run_after=value)


@pytest.mark.parametrize("use_tz", [True, False])
@pytest.mark.parametrize("value", LONG_AGO, ids=repr)
def test_a_time_long_ago_means_now(engine: Engine, value: Any, use_tz: bool) -> None:
    with override_settings(USE_TZ=use_tz):
        handle = add.using(run_after=value).run_later(1)
        assert handle.state == "ready"
        many = run_many([add.using(run_after=value).bind(1), add.bind(2)])
        with transaction.atomic():
            relayed = add.using(run_after=value).run_later(2)
        for each in (handle, *many, relayed):
            each.refresh()
            assert each.state == "ready"
        assert drain() == 4


def test_the_last_time_of_all_can_be_enqueued(engine: Engine) -> None:
    last = datetime(9998, 12, 31, 23, 59, 59, tzinfo=UTC)
    handle = add.using(run_after=last, expires_after=100).run_later(1)
    assert handle.state == "scheduled"
    assert Job.objects.get(pk=handle.id).run_after == last
    assert engine.jobs.next_due() == last.timestamp()


# Sizes


def test_the_size_of_a_payload_is_a_setting() -> None:
    assert conf.parse({}).max_payload == 4_000_000
    for value in (99, 0, -1, 1e6, True, "1 MB", None, 500_000_001):
        with pytest.raises(ImproperlyConfigured, match=r"DJJP\['max_payload'\] is .* bytes"):
            conf.parse({"max_payload": value})


@pytest.fixture
def small(engine: Engine) -> Any:
    with override_settings(DJJP={"db_name": engine.db.alias, "max_payload": 1000}):
        yield


def test_the_argument_that_is_too_large_is_named(small: None) -> None:
    for call, name in (
        (lambda: echo.run_later("x" * 990), r"args\[0\]"),
        (lambda: echo.run_later("x", "y" * 500, "z" * 480), r"args\[1\]"),
        (lambda: echo.bind("x", text="y" * 990), "text"),
        (lambda: add.run_later(1, b=10**1100), "b"),
    ):
        expected = (
            rf"the arguments have [\d,]+ bytes, of which {name} has [\d,]+; "
            r"DJJP\['max_payload'\] allows 1,000: keep"
        )
        with pytest.raises(PayloadTooLarge, match=expected):
            call()
    assert issubclass(PayloadTooLarge, EncodeError)
    assert issubclass(PayloadTooLarge, ValueError)


def test_a_payload_of_the_exact_size_is_enqueued(engine: Engine, small: None) -> None:
    frame = len(echo.bind("").arguments)
    handle = echo.run_later("x" * (1000 - frame))
    with pytest.raises(PayloadTooLarge):
        echo.run_later("x" * (1001 - frame))
    with pytest.raises(PayloadTooLarge):
        echo.run_later("\N{SNOWMAN}" * 166)  # six characters each, as text
    assert drain() == 1
    handle.refresh()


LARGE = "x" * 2000
WAYS: dict[str, Callable[[], object]] = {
    "run_later": lambda: echo.run_later(LARGE),
    "arun_later": lambda: asyncio.run(echo.arun_later(LARGE)),
    "run_many": lambda: run_many(echo.bind(text) for text in ("", LARGE)),
    "chain": lambda: chain(add.bind(1), echo.bind_alone(LARGE)).run_later(),
    "group": lambda: group(echo.bind(LARGE)).run_later(),
    "on_failure": lambda: chain(add.bind(1), on_failure=echo.bind(LARGE)).run_later(),
    "using": lambda: echo.using(queue="bulk").run_later(LARGE),
    "a schedule in the code": lambda: job(name="shop.large", every=60, schedule_args=[LARGE])(
        lambda text: None
    ),
    "a schedule in the admin": lambda: schedules.run_now(
        Schedule(
            job=echo.name, source=Source.ADMIN, arguments=f'{{"args":["{LARGE}"],"kwargs":{{}}}}'
        )
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("inside", [True, False])
def test_no_way_in_takes_a_larger_one(engine: Engine, small: None, way: str, inside: bool) -> None:
    block = transaction.atomic() if inside else nullcontext()
    with block, pytest.raises(PayloadTooLarge, match="DJJP"):
        WAYS[way]()
    assert Job.objects.count() == 0


def give(size: int) -> str:
    return "x" * size


async def agive(size: int) -> str:
    return "x" * size


@pytest.mark.parametrize("function", [give, agive])
def test_a_result_that_is_too_large_ends_its_job_as_failed(
    engine: Engine, small: None, function: Any
) -> None:
    giver: RegisteredJob[..., Any] = job(name="shop.give")(function)
    too_large, fits = giver.run_later(999), giver.run_later(998)
    drain()
    too_large.refresh()
    (error,) = too_large.errors
    assert too_large.state == "failed"
    assert error.exception_class == "djjp.exceptions.PayloadTooLarge"
    assert error.message.startswith(
        "the return value has 1,001 bytes; DJJP['max_payload'] allows 1,000"
    )
    assert fits.join(0) == "x" * 998


def test_a_chunk_of_large_calls_is_shorter(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bound, "CHUNK_SIZE", 5000)
    written: list[int] = []

    class Counting(enqueue.Sender):
        def send(self, jobs: enqueue.Unit, database: str | None) -> KeyHolders:
            assert not isinstance(jobs, NewPipeline)
            written.append(len(jobs))
            return super().send(jobs, database)

    monkeypatch.setattr(enqueue, "sender", Counting())
    handles = run_many(echo.bind("x" * size) for size in [1000] * 12 + [9000] * 2 + [1] * 30)
    assert written == [5, 5, 3, 1, 30]
    assert len({handle.id for handle in handles}) == 44


def test_a_pipeline_is_bounded_as_a_whole(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "LARGEST_PIPELINE", 50_000)
    group(*(echo.bind("x" * 1000) for _ in range(30))).run_later()
    for too_large in (
        group(*(echo.bind("x" * 1000) for _ in range(40))),
        group(*(add.bind(1) for _ in range(200))),
        chain(group(*[add.bind(1)] * 30), group(*[echo.bind()] * 30)),
    ):
        with pytest.raises(PayloadTooLarge, match=r"the pipeline of \d+ jobs has [\d,]+ bytes"):
            too_large.run_later()
    assert Job.objects.count() == 30


def test_a_text_for_a_person_is_bounded_after_its_characters_are_shown() -> None:
    for text in ("x" * 500, "\0" * 150, "\ud800" * 150, "é\0" * 200):
        shown = bounds.storable(text, 200)
        assert len(shown) <= 200
        assert "\0" not in shown
        shown.encode()
    assert bounds.storable("short", 200) == "short"


def test_an_exception_with_a_name_of_any_kind_is_one_failed_attempt(engine: Engine) -> None:
    def fail() -> None:
        raise type("\ud800" * 190, (ValueError,), {})("\0")

    handle = job(name="shop.odd_class")(fail).run_later()
    drain()
    handle.refresh()
    assert handle.state == "failed"
    assert len(handle.errors[0].exception_class) <= 200


def test_a_reason_of_any_kind_is_kept(engine: Engine) -> None:
    def discard() -> None:
        raise Discard("\ud800\0" * 100_000)

    handle = job(name="shop.odd_reason")(discard).run_later()
    drain()
    handle.refresh()
    assert handle.state == "cancelled"
    assert re.match(r"\\ud800", handle.reason or "")


def test_the_check_of_a_small_call_costs_next_to_nothing() -> None:
    """The settings are not read for it."""
    calls: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conf, "current", lambda: calls.append(1))
        add.bind(1, b=2)
    assert calls == []
