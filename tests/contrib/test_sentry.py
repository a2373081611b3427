"""Sentry gets errors with the facts of their job, spans and check-ins; nothing leaks from job to job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings
from django.test import override_settings

pytest.importorskip("sentry_sdk", reason="the extra sentry is not installed")

import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.dedupe import DedupeIntegration
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.transport import Transport

from djjp import Discard, instruments, job
from djjp.contrib import sentry as bridge
from djjp.engine import Engine
from djjp.ids import new_id
from djjp.instruments import Call
from djjp.models import Job
from tests.project.shop.jobs import add
from tests.support.consumers import drain
from tests.support.schedules import nothing, registered

PATH = "djjp.contrib.sentry.Reporting"
SENT: list[dict[str, Any]] = []


class Kept(Transport):
    """Keeps what would be sent."""

    def capture_envelope(self, envelope: Envelope) -> None:
        SENT.extend(
            {"type": item.type, **item.payload.json}
            for item in envelope.items
            if item.payload.json is not None
        )


@job(name="sentry.fails", max_attempts=2, backoff=0, retry_on=(ValueError,))
def fails(address: str, password: str = "") -> None:
    sentry_sdk.set_tag("secret", "of this job")
    sentry_sdk.set_user({"id": "4711"})
    raise ValueError("no address")


@job(name="sentry.other")
def other() -> None:
    raise KeyError("other")


@job(name="sentry.coroutine")
async def coroutine(number: int) -> None:
    sentry_sdk.set_tag("number", number)
    raise RuntimeError(str(number))


@job(name="sentry.discards")
def discards() -> None:
    raise Discard("no use")


def refused() -> None:
    raise ValueError("no")


@pytest.fixture
def client() -> Iterator[None]:
    yield from initialised()


@pytest.fixture
def client_of_logs() -> Iterator[None]:
    yield from initialised(integrations=[LoggingIntegration(), DedupeIntegration()])


@pytest.fixture
def client_with_arguments() -> Iterator[None]:
    yield from initialised("ReportingWithArguments")


def initialised(name: str = "Reporting", **options: Any) -> Iterator[None]:
    SENT.clear()
    made = sentry_sdk.Client(
        dsn="https://key@sentry.invalid/1", transport=Kept, traces_sample_rate=1.0,
        default_integrations=False, auto_enabling_integrations=False, **options,
    )  # fmt: skip
    scope = sentry_sdk.get_global_scope()
    scope.set_client(made)
    with override_settings(DJJP={**settings.DJJP, "instruments": [f"djjp.contrib.sentry.{name}"]}):
        yield
    scope.set_client(None)
    made.close(timeout=0)
    instruments._instances.clear()
    instruments._logged.clear()


def sent(kind: str) -> list[dict[str, Any]]:
    return [each for each in SENT if each["type"] == kind]


def test_a_failure_for_good_is_one_error_with_the_facts_of_the_job(
    engine: Engine, client: None
) -> None:
    handle = fails.using(queue="mail").run_later("Main St 1")
    drain()
    [event] = sent("event")
    facts = event["contexts"]["djjp"]
    assert facts["id"] == str(handle.id)
    assert (facts["name"], facts["queue"]) == ("sentry.fails", "mail")
    assert (facts["attempt"], facts["outcome"]) == (2, "failed")
    assert event["tags"]["djjp.job"] == "sentry.fails"
    [error] = event["exception"]["values"]
    assert (error["type"], error["value"]) == ("ValueError", "no address")
    assert error["mechanism"] == {"type": "djjp", "handled": False}


def test_the_log_of_a_failure_is_no_second_error(engine: Engine, client_of_logs: None) -> None:
    fails.run_later("a")
    drain()
    [event] = sent("event")
    assert event["contexts"]["djjp"]["name"] == "sentry.fails"
    assert event["tags"]["secret"] == "of this job"


def test_no_argument_is_sent(engine: Engine, client: None) -> None:
    fails.run_later("Main St 1", "hunter3")
    drain()
    assert len(sent("event")) == 1
    assert "Main St 1" not in repr(SENT)
    assert "hunter3" not in repr(SENT)


def test_arguments_that_are_allowed_are_redacted(
    engine: Engine, client_with_arguments: None
) -> None:
    fails.run_later("Main St 1", "hunter3")
    drain()
    [event] = sent("event")
    [error] = event["exception"]["values"]
    assert error["stacktrace"]["frames"][-1]["vars"]["address"] == "'Main St 1'"
    assert "hunter3" not in repr(SENT)


def test_a_discarded_job_is_no_error(engine: Engine, client: None) -> None:
    discards.run_later()
    drain()
    assert not sent("event")


@pytest.mark.parametrize("slots", [1, 4])
def test_no_tag_and_no_user_leaks_from_job_to_job(slots: int, engine: Engine, client: None) -> None:
    fails.run_later("a")
    other.run_later()
    drain(slots)
    fails.run_later("a")
    other.run_later()
    drain(slots)
    events = sent("event")
    assert len(events) == 4
    for event in events:
        mine = event["tags"]["djjp.job"] == "sentry.fails"
        assert ("secret" in event["tags"]) is mine
        assert ("user" in event and "id" in event["user"]) is mine


def test_no_tag_leaks_between_coroutines(engine: Engine, client: None) -> None:
    for number in range(5):
        coroutine.run_later(number)
    drain(concurrency="asyncio")
    found = {event["exception"]["values"][0]["value"]: event["tags"] for event in sent("event")}
    assert {value: str(tags["number"]) for value, tags in found.items()} == {
        str(number): str(number) for number in range(5)
    }


def test_an_enqueue_and_its_run_are_spans_of_one_trace(engine: Engine, client: None) -> None:
    with sentry_sdk.start_transaction(name="GET /order", op="http.server"):
        handle = add.run_later(1)
    drain()
    request, run = sent("transaction")
    [publish] = [span for span in request["spans"] if span["op"] == "queue.publish"]
    trace = run["contexts"]["trace"]
    assert publish["data"]["messaging.message.id"] == str(handle.id)
    assert publish["data"]["messaging.destination.name"] == "default"
    assert trace["op"] == "queue.process"
    assert trace["trace_id"] == request["contexts"]["trace"]["trace_id"]
    assert trace["parent_span_id"] == publish["span_id"]
    assert trace["data"]["messaging.message.receive.latency"] >= 0
    assert trace["data"]["messaging.message.retry.count"] == 0
    assert run["transaction"] == add.name


@pytest.mark.parametrize(
    ("when", "function", "end", "config"),
    [
        ({"cron": "0 3 * * *", "tz": "Europe/Berlin"}, nothing, "ok", {
            "schedule": {"type": "crontab", "value": "0 3 * * *"}, "timezone": "Europe/Berlin",
        }),
        ({"every": 300}, refused, "error", {
            "schedule": {"type": "interval", "value": 5, "unit": "minute"},
        }),
    ],
)  # fmt: skip
def test_a_schedule_checks_in_when_its_job_starts_and_ends(
    when: dict[str, Any],
    function: Callable[[], None],
    end: str,
    config: dict[str, Any],
    engine: Engine,
    client: None,
) -> None:
    with registered("sentry.scheduled", function, **when) as scheduled:
        handle = scheduled.run_later()
        Job.objects.filter(pk=handle.id).update(context={bridge.SCHEDULE: scheduled.name})
        drain()
    check_ins = sent("check_in")
    assert [each["status"] for each in check_ins] == ["in_progress", end]
    for each in check_ins:
        assert each["monitor_slug"] == scheduled.name.replace(".", "-")
        assert each["check_in_id"] == handle.id.hex
        assert each["monitor_config"] == config


def test_the_schedule_of_an_occurrence_travels_with_its_job(client: None) -> None:
    context: dict[str, Any] = {}
    with bridge.Reporting().enqueue(
        [Call(new_id(), "a", "default", 0, schedule="nightly")], context
    ):
        pass
    assert context[bridge.SCHEDULE] == "nightly"


def test_an_interval_of_seconds_and_an_unknown_schedule_have_no_configuration() -> None:
    assert bridge._monitor("of the admin") is None
    with registered("sentry.odd", every=90):
        assert bridge._monitor("sentry.odd") is None


def test_a_monitor_without_a_time_zone_has_djangos() -> None:
    with registered("sentry.daily", cron="0 4 * * *"):
        monitor = bridge._monitor("sentry.daily")
    assert monitor is not None
    assert monitor["timezone"] == settings.TIME_ZONE


def test_without_a_client_nothing_is_added(engine: Engine) -> None:
    with override_settings(DJJP={**settings.DJJP, "instruments": [PATH]}):
        handle = add.run_later(1)
        assert Job.objects.get(pk=handle.id).context == {}
        assert drain().executed == 1
    instruments._instances.clear()
