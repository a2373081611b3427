"""The table `instruments`: the CPU time of an enqueue and of a run with each instrument, next to none.

Each measurement is a child process of its own: what a library sets up for a process could not be taken back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.environment import empty
from benchmarks.report import Column, Section, Spread, progress

_COLUMNS = [
    Column("database", "database"),
    Column("with", "case"),
    Column("enqueue µs", "enqueue_us", ",.0f"),
    Column("of none", "enqueue_ratio", ".3f"),
    Column("run µs", "run_us", ",.0f"),
    Column("of none", "run_ratio", ".3f"),
    Column("scrape ms", "scrape_ms", ".1f"),
]


class Nothing:
    """An instrument that does nothing."""

    def enqueue(self, calls: Any, context: Any) -> AbstractContextManager[object]:
        return nullcontext()

    def run(self, job: Any) -> AbstractContextManager[object]:
        return nullcontext()


def _receivers() -> None:
    from djjp import signals

    for each in (signals.job_enqueued, signals.job_started, signals.job_finished):
        each.connect(_receive, weak=False)


def _receive(**kwargs: object) -> None:
    pass


def _opentelemetry() -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Discarding(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Discarding()))
    trace.set_tracer_provider(provider)


def _sentry(rate: float) -> None:
    import sentry_sdk
    from sentry_sdk.transport import Transport

    class Discarding(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            pass

    sentry_sdk.init("https://key@sentry.invalid/1", transport=Discarding, traces_sample_rate=rate)


def _prometheus() -> None:
    from djjp.contrib import prometheus

    prometheus.register()


_NONE = "none"
_OPENTELEMETRY, _SENTRY = "djjp.contrib.opentelemetry.Tracing", "djjp.contrib.sentry.Reporting"
#: Each case: what is imported for it, its instruments, and what sets the process up.
_CASES: dict[str, tuple[str, list[str], Callable[[], None]]] = {
    _NONE: ("djjp", [], lambda: None),
    "an instrument that does nothing": ("djjp", ["benchmarks.instruments.Nothing"], lambda: None),
    "receivers of three signals": ("djjp", [], _receivers),
    "opentelemetry": ("opentelemetry.sdk", [_OPENTELEMETRY], _opentelemetry),
    "sentry, errors": ("sentry_sdk", [_SENTRY], lambda: _sentry(0.0)),
    "sentry, transactions": ("sentry_sdk", [_SENTRY], lambda: _sentry(1.0)),
    "prometheus": ("prometheus_client", [], _prometheus),
}


def measure(databases: Sequence[str], jobs: int, repeat: int) -> Section:
    cases = [case for case, (module, *_) in _CASES.items() if _is_installed(module)]
    rows: list[dict[str, Any]] = []
    for alias in databases:
        samples: dict[str, list[dict[str, float]]] = {case: [] for case in cases}
        for number in range(1, repeat + 1):
            progress(f"instruments: {jobs:,} jobs, {alias}, {number} of {repeat}")
            for case in cases:
                samples[case].append(_measured(case, alias, jobs))
        spreads = {
            case: {key: Spread.of([each[key] for each in found]) for key in found[0]}
            for case, found in samples.items()
        }
        base = spreads[_NONE]
        for case in cases:
            found = spreads[case]
            rows.append(
                {
                    "database": alias,
                    "case": case,
                    "scrape_ms": None,
                    **found,
                    **{
                        f"{what}_ratio": None
                        if case == _NONE
                        else found[f"{what}_us"].ratio(base[f"{what}_us"])
                        for what in ("enqueue", "run")
                    },
                }
            )
    return Section("instruments", "CPU time of one process, for each job", _COLUMNS, rows)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its package is not there
        return False


def _measured(case: str, alias: str, jobs: int) -> dict[str, float]:
    """Return the figures of one case."""
    from django.db import connections

    connections.close_all()  # a child must have its own
    context = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_measure, args=[case, alias, jobs, sender])
    child.start()
    sender.close()
    try:
        figures: dict[str, float] = receiver.recv()
    except EOFError:
        raise RuntimeError(f"the measurement of {case!r} failed") from None
    child.join()
    return figures


def _measure(case: str, alias: str, jobs: int, sender: Connection) -> None:
    from django.test import override_settings

    from benchmarks.jobs import noop
    from djjp.consumer.consumer import Consumer

    _, instruments, set_up = _CASES[case]
    set_up()

    def enqueue(number: int) -> None:
        for each in range(number):
            noop.run_later(each)

    def drain() -> None:
        Consumer(4, drain=True).run()

    with override_settings(DJJP={"db_name": alias, "instruments": instruments}):
        empty(alias)
        enqueue(min(jobs, 200))
        drain()
        figures = {
            "enqueue_us": _cpu(lambda: enqueue(jobs)) / jobs * 1e6,
            "run_us": _cpu(drain) / jobs * 1e6,
        }
        if case == "prometheus":
            from djjp.contrib import prometheus

            prometheus.render()
            figures["scrape_ms"] = _cpu(lambda: [prometheus.render() for _ in range(20)]) / 20 * 1e3
    sender.send(figures)


def _cpu(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began
