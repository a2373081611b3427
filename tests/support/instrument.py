"""An instrument that records what it gets; and others that go wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import Any

from djjp.instruments import Call, Instrument, JobRun

PATH = f"{__name__}.Recorder"

#: What has happened, in order: what is entered or left, and what it got.
EVENTS: list[tuple[Any, ...]] = []
#: What the recorder puts into the context.
GIVEN: dict[str, Any] = {}
#: The instances that were made.
MADE: list[object] = []


class Recorder(Instrument):
    def __init__(self) -> None:
        MADE.append(self)

    @contextmanager
    def enqueue(self, calls: Sequence[Call], context: dict[str, Any]) -> Iterator[None]:
        EVENTS.append(("enqueue", list(calls)))
        context.update(GIVEN)
        try:
            yield
        except BaseException as error:
            EVENTS.append(("not enqueued", error))
            raise

    @contextmanager
    def run(self, job: JobRun) -> Iterator[None]:
        assert job.outcome is None
        EVENTS.append(("run", job, threading.get_ident()))
        try:
            yield
        finally:
            EVENTS.append(("end", job.outcome, job.exception))


class Sequel(Instrument):
    """Entered after another one."""

    @contextmanager
    def enqueue(self, calls: Sequence[Call], context: dict[str, Any]) -> Iterator[None]:
        context["seen"] = sorted(context)
        yield

    @contextmanager
    def run(self, job: JobRun) -> Iterator[None]:
        EVENTS.append(("sequel runs",))
        yield
        EVENTS.append(("sequel ends",))


class Numbered(Instrument):
    """Numbers the enqueues."""

    numbers = count(1)

    @contextmanager
    def enqueue(self, calls: Sequence[Call], context: dict[str, Any]) -> Iterator[None]:
        context["number"] = next(self.numbers)
        yield


trace: ContextVar[str | None] = ContextVar("trace", default=None)


class Tracing(Instrument):
    """Carries a context variable from the enqueue to the run."""

    @contextmanager
    def enqueue(self, calls: Sequence[Call], context: dict[str, Any]) -> Iterator[None]:
        context["trace"] = trace.get()
        yield

    @contextmanager
    def run(self, job: JobRun) -> Iterator[None]:
        token = trace.set(job.context["trace"])
        try:
            yield
        finally:
            trace.reset(token)


class OnlyRuns:
    """No subclass, and only one of the methods."""

    @contextmanager
    def run(self, job: JobRun) -> Iterator[None]:
        EVENTS.append(("only runs",))
        yield


class RaisesAtOnce:
    def enqueue(self, calls: Sequence[Call], context: dict[str, Any]) -> Any:
        context["half"] = "done"
        raise ValueError("no enqueue")

    def run(self, job: JobRun) -> Any:
        raise SystemExit("no run")


class RaisesOnExit:
    @contextmanager
    def enqueue(self, calls: Sequence[Call], context: dict[str, Any]) -> Iterator[None]:
        yield
        raise ValueError("no end of the enqueue")

    @contextmanager
    def run(self, job: JobRun) -> Iterator[None]:
        try:
            yield
        finally:
            raise ValueError("no end of the run")


class Suppresses:
    """Would have every job succeed."""

    def run(self, job: JobRun) -> Any:
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> bool:
        return True


class Unmade:
    def __init__(self) -> None:
        raise OSError("no network")

    def run(self, job: JobRun) -> Any:
        raise NotImplementedError


class Neither:
    pass


NO_CLASS = "text"
