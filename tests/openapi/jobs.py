"""Jobs that take each call that fits their schema: their parameters have names only."""

from __future__ import annotations

from djjp import job


@job(name="openapi.count", api=True)
def count(*, to: int, label: str = "") -> int:
    """Return a number."""
    return to


@job(name="openapi.fail", api=True)
def fail(*, text: str = "no") -> None:
    """Fail with a text."""
    raise ValueError(text)


@job(name="openapi.hourly", every=3600)
def hourly() -> None:
    """Run each hour."""
