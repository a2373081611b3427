"""Jobs that programs can enqueue over HTTP, and one that they cannot."""

from __future__ import annotations

from decimal import Decimal

from djjp import job


@job(name="api.add", api=True)
def add(a: int, b: int = 0) -> int:
    """Add two numbers."""
    return a + b


@job(name="api.pay", api=True)
def pay(amount: Decimal, password: str = "") -> Decimal:
    """Return the amount."""
    return amount


@job(name="api.any", api=True)
def take_anything(*args: object, **kwargs: object) -> None:
    """Take any arguments."""


@job(name="api.fail", api=True)
def fail(text: str) -> None:
    """Fail with a text."""
    raise ValueError(text)


@job(name="api.unique", api=True, unique_key="u-{key}")
def unique(key: str) -> None:
    """Have one live job for each key."""


@job(name="api.private")
def private(a: int) -> None:
    """Be enqueued by code only."""
