"""Schedules for tests: of jobs that are registered for one test only, and rows made by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from djjp import job
from djjp.jobs import RegisteredJob, registry
from djjp.models import Schedule


def nothing(*args: object, **kwargs: object) -> None:
    """Do nothing: the function of a scheduled job."""


@contextmanager
def registered(
    name: str = "test.scheduled", function: Callable[..., Any] = nothing, **options: Any
) -> Iterator[RegisteredJob[..., Any]]:
    """Register a job inside the block."""
    made: RegisteredJob[..., Any] = job(name=name, **options)(function)
    try:
        yield made
    finally:
        del registry._jobs[name]


def by_hand(job: str, fired_until: float, **fields: Any) -> Schedule:
    """Return a schedule as the admin writes it."""
    plain = {"name": f"{job} by hand", "arguments": '{"args":[],"kwargs":{}}'}
    return Schedule.objects.create(job=job, fired_until=fired_until, **{**plain, **fields})
