"""The jobs in the fixtures of `tests/upgrade/`. Rows of past releases name them: they stay as they are."""

from __future__ import annotations

from djjp import Limit, Rate, job


@job(name="upgrade.add", tags=["tenant-1"])
def add(left: int, right: int = 0) -> int:
    return left + right


@job(name="upgrade.fail", max_attempts=2, backoff=3600)
def fail(text: str) -> None:
    raise ValueError(text)


@job(name="upgrade.numbers")
def numbers(count: int) -> list[int]:
    return list(range(count))


@job(name="upgrade.total")
def total(values: list[int]) -> int:
    return sum(values)


@job(name="upgrade.limited", limit=Limit("upgrade", 1))
def limited() -> str:
    return "limited"


@job(name="upgrade.rated", limit=Rate("upgrade-rate", 5, per=60))
def rated() -> str:
    return "rated"


@job(name="upgrade.unique", unique_key="upgrade-{number}")
def unique(number: int) -> int:
    return number


@job(name="upgrade.nightly")
def nightly() -> str:
    return "nightly"


@job(name="upgrade.over_http", api=True)
def over_http(a: int) -> int:
    return a
