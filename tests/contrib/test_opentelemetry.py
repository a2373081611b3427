"""An enqueue and the runs that follow are one readable trace; a large fan-out is links."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings
from django.test import override_settings

pytest.importorskip("opentelemetry.sdk", reason="the SDK of OpenTelemetry is not installed")

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from djjp import Discard, Retry, chain, expand, group, instruments, job, run_many
from djjp.contrib import opentelemetry as bridge
from djjp.engine import Engine
from djjp.ids import new_id
from djjp.models import Job
from tests.project.shop.jobs import add
from tests.support.consumers import drain

PATH = "djjp.contrib.opentelemetry.Tracing"
FAN_OUT = 10_000


@job(name="tracing.fails", max_attempts=2, backoff=0, retry_on=(ValueError,))
def fails() -> None:
    raise ValueError("no address")


@job(name="tracing.again", max_attempts=2)
def again() -> None:
    raise Retry(after=3600)


@job(name="tracing.discards")
def discards() -> None:
    raise Discard("no use")


@job(name="tracing.numbers")
def numbers(n: int) -> list[int]:
    return list(range(n))


@job(name="tracing.double")
def double(n: int) -> int:
    return 2 * n


@job(name="tracing.enqueues")
def enqueues() -> None:
    double.run_later(1)


@job(name="tracing.coroutine")
async def coroutine() -> None:
    with trace.get_tracer("test").start_as_current_span("inside"):
        await double.arun_later(1)


@pytest.fixture(autouse=True)
def used(engine: Engine) -> Iterator[None]:
    with override_settings(DJJP={**settings.DJJP, "instruments": [PATH]}):
        yield
    instruments._instances.clear()
    instruments._logged.clear()


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def traces(spans: Any) -> set[int]:
    return {span.context.trace_id for span in spans}


def test_a_request_its_enqueue_and_each_attempt_are_one_trace(
    exporter: InMemorySpanExporter,
) -> None:
    with trace.get_tracer("web").start_as_current_span("GET /order") as request:
        handle = fails.run_later()
    drain()
    [enqueue] = named(exporter, "enqueue tracing.fails")
    first, second = named(exporter, "run tracing.fails")
    assert enqueue.parent is not None
    assert enqueue.parent.span_id == request.get_span_context().span_id
    assert {span.parent.span_id for span in (first, second) if span.parent} == {
        enqueue.context.span_id
    }
    assert len(traces(exporter.get_finished_spans())) == 1
    assert (
        f"{enqueue.context.trace_id:032x}" in Job.objects.get(pk=handle.id).context["traceparent"]
    )


def test_spans_have_the_attributes_of_the_messaging_conventions(
    exporter: InMemorySpanExporter,
) -> None:
    handle = add.using(queue="mail").run_later(1)
    drain()
    [enqueue], [run] = named(exporter, f"enqueue {add.name}"), named(exporter, f"run {add.name}")
    common = {
        "messaging.system": "djjp",
        "messaging.destination.name": "mail",
        "messaging.message.id": str(handle.id),
        "djjp.job.name": add.name,
    }
    assert enqueue.kind is SpanKind.PRODUCER
    assert dict(enqueue.attributes or {}) == common | {
        "messaging.operation.name": "enqueue",
        "messaging.operation.type": "send",
    }
    assert run.kind is SpanKind.CONSUMER
    found = dict(run.attributes or {})
    waited, consumer = found.pop("djjp.job.waited"), found.pop("messaging.client.id")
    assert isinstance(waited, float)
    assert consumer == Job.objects.get(pk=handle.id).consumer
    assert found == common | {
        "messaging.operation.name": "run",
        "messaging.operation.type": "process",
        "djjp.job.attempt": 1,
        "djjp.job.rescues": 0,
        "djjp.job.outcome": "succeeded",
    }


def test_an_error_is_recorded_and_no_argument(exporter: InMemorySpanExporter) -> None:
    fails.run_later()
    drain()
    runs = named(exporter, "run tracing.fails")
    assert [(run.attributes or {})["djjp.job.outcome"] for run in runs] == ["retry", "failed"]
    for run in runs:
        assert run.status.status_code is StatusCode.ERROR
        assert run.status.description == "ValueError: no address"
        assert (run.attributes or {})["error.type"] == "ValueError"
        [event] = run.events
        assert (event.attributes or {})["exception.message"] == "no address"


@pytest.mark.parametrize(("asked", "outcome"), [(again, "retry"), (discards, "cancelled")])
def test_what_a_job_asks_for_is_no_error(
    asked: Any, outcome: str, exporter: InMemorySpanExporter
) -> None:
    asked.run_later()
    drain()
    [run] = named(exporter, f"run {asked.name}")
    assert (run.attributes or {})["djjp.job.outcome"] == outcome
    assert run.status.status_code is StatusCode.UNSET
    assert not run.events


@pytest.mark.parametrize("parent", [enqueues, coroutine])
def test_a_job_that_a_job_enqueues_is_in_its_trace(
    parent: Any, exporter: InMemorySpanExporter
) -> None:
    parent.run_later()
    drain()
    assert len(named(exporter, "run tracing.double")) == 1
    assert len(traces(exporter.get_finished_spans())) == 1


def test_a_pipeline_is_one_trace(exporter: InMemorySpanExporter) -> None:
    chain(double.bind(1), group(double.bind(), double.bind())).run_later()
    drain()
    [enqueue] = named(exporter, "enqueue pipeline")
    runs = named(exporter, "run tracing.double")
    assert len(runs) == 3
    assert traces(runs) == {enqueue.context.trace_id}
    assert (enqueue.attributes or {})["messaging.batch.message_count"] == 3


def test_each_job_of_a_large_batch_is_a_trace_of_its_own_with_a_link(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "MOST_CHILDREN", 4)
    run_many(double.bind(n) for n in range(4))
    run_many(double.bind(n) for n in range(5))
    drain()
    small, large = named(exporter, "enqueue tracing.double")
    runs = named(exporter, "run tracing.double")
    children = [run for run in runs if run.parent is not None]
    linked = [run for run in runs if run.parent is None]
    assert traces(children) == {small.context.trace_id}
    assert len(children) == 4
    assert len(traces(linked)) == 5
    for run in linked:
        [link] = run.links
        assert link.context.span_id == large.context.span_id


def test_a_large_group_is_links(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "MOST_CHILDREN", 4)
    group(double.bind(n) for n in range(5)).run_later()
    drain()
    [enqueue] = named(exporter, "enqueue pipeline")
    runs = named(exporter, "run tracing.double")
    assert len(traces(runs)) == 5
    assert {run.links[0].context.span_id for run in runs} == {enqueue.context.span_id}


def test_what_expand_makes_is_links_and_the_steps_around_it_are_in_the_trace(
    exporter: InMemorySpanExporter,
) -> None:
    chain(numbers.bind(5), expand(double)).run_later()
    drain()
    [enqueue] = named(exporter, "enqueue pipeline")
    [first] = named(exporter, "run tracing.numbers")
    members = named(exporter, "run tracing.double")
    assert first.context.trace_id == enqueue.context.trace_id
    assert len(members) == len(traces(members)) == 5
    assert {member.links[0].context.span_id for member in members} == {enqueue.context.span_id}


FAN_OUTS: dict[str, Callable[[], object]] = {
    "run_many": lambda: run_many(double.bind(n) for n in range(FAN_OUT)),
    "group": lambda: group(double.bind(n) for n in range(FAN_OUT)).run_later(),
    "expand": lambda: chain(numbers.bind(FAN_OUT), expand(double)).run_later(),
}


@pytest.mark.end_to_end
@pytest.mark.sqlite_only
@pytest.mark.parametrize("way", FAN_OUTS)
def test_a_fan_out_of_ten_thousand_is_links_and_no_trace_is_long(
    exporter: InMemorySpanExporter, way: str
) -> None:
    FAN_OUTS[way]()
    drain()
    enqueues = {
        span.context.span_id for span in exporter.get_finished_spans() if span.name[:3] == "enq"
    }
    runs = named(exporter, "run tracing.double")
    assert len(runs) == len(traces(runs)) == FAN_OUT
    assert len(enqueues) == (FAN_OUT / 1000 if way == "run_many" else 1)
    assert {len(run.links) for run in runs} == {1}
    assert {run.links[0].context.span_id for run in runs} == enqueues
    lengths = Counter(span.context.trace_id for span in exporter.get_finished_spans())
    # The longest is that of the pipeline: its enqueue and the step before.
    assert max(lengths.values()) == (2 if way == "expand" else 1)


def test_a_context_of_the_largest_pipeline_in_one_trace_fits() -> None:
    context = {
        "traceparent": "0" * 55,
        "tracestate": "0" * 512,
        bridge.CHILDREN: [bridge._short(new_id()) for _ in range(bridge.MOST_CHILDREN)],
    }
    assert len(set(context[bridge.CHILDREN])) == bridge.MOST_CHILDREN
    assert instruments.to_text(context) is not None


def test_without_an_sdk_there_is_no_byte_and_no_span(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", trace.ProxyTracerProvider)
    handle = add.run_later(1)
    assert Job.objects.get(pk=handle.id).context == {}
    monkeypatch.setattr(trace, "get_tracer", None)
    assert drain().executed == 1


def test_a_damaged_context_is_a_trace_of_its_own(exporter: InMemorySpanExporter) -> None:
    handle = add.run_later(1)
    Job.objects.filter(pk=handle.id).update(context={"traceparent": 7, bridge.CHILDREN: "x"})
    drain()
    [run] = named(exporter, f"run {add.name}")
    assert run.parent is None
