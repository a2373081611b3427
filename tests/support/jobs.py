"""Jobs that exist for the duration of a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from djjp import job
from djjp.jobs import registry


@contextmanager
def registered(name: str, function: Callable[..., Any], **options: Any) -> Iterator[Any]:
    """Register a function as a job until the end of the block."""
    found = job(name=name, **options)(function)
    try:
        yield found
    finally:
        del registry._jobs[found.name]
