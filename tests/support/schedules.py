"""Schedules for tests: of jobs that are registered for one test only, and rows made by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from djjp import job
from djjp.jobs import RegisteredJob, registry
from djjp.models import Schedule


def nothing(*args: object, **kwargs: object) -> None:
    """What a scheduled job does."""


@contextmanager
def registered(
    name: str = "test.scheduled", function: Callable[..., Any] = nothing, **options: Any
) -> Iterator[RegisteredJob[..., Any]]:
    """A job that is registered for a while."""
    made: RegisteredJob[..., Any] = job(name=name, **options)(function)
    try:
        yield made
    finally:
        del registry._jobs[name]


def by_hand(job: str, settled: float, **fields: Any) -> Schedule:
    """A schedule as the admin writes it."""
    plain = {"name": f"{job} by hand", "arguments": '{"args":[],"kwargs":{}}'}
    return Schedule.objects.create(job=job, fired_until=settled, **{**plain, **fields})
