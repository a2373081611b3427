"""The types that users see: an example of everything, which mypy and pyright check and nothing runs.

Both checkers report a comment that ignores an error which is none any more. So each line with such a comment
shows a mistake that they find.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, assert_type
from uuid import UUID

from djjp import (
    Discard,
    JobCancelled,
    JobFailed,
    JobHandle,
    Limit,
    PipelineHandle,
    Rate,
    Retry,
    State,
    aget_job,
    arun_many,
    chain,
    current_job,
    current_job_or_none,
    expand,
    get_job,
    group,
    job,
    run_many,
)
from djjp.jobs import BoundJob, CurrentJob, RegisteredJob
from djjp.testing import drain

# Declare


@job
def add(a: int, b: int = 0) -> int:
    """Add two numbers."""
    return a + b


@job(
    name="typed.receipt",
    queue="mail",
    priority=5,
    max_attempts=5,
    backoff=[1, timedelta(minutes=1)],
    retry_on=(OSError, ValueError),
    timeout=30,
    on_crash="fail",
    limit=Limit("tenant-{order}", 2),
    unique_key="receipt-{order}",
    unique_until="start",
    expires_after=timedelta(hours=1),
    tags=["billing"],
)
def receipt(order: int, *, copy_to: str | None = None) -> dict[str, Any]:
    if order < 0:
        raise Discard("no order")
    if current_job().attempt < 3:
        raise Retry(after=5)
    return {"order": order, "copy_to": copy_to}


@job(cron="0 9 * * *", tz="Europe/Berlin", catch_up="all", limit=Rate("api", 10, per=60))
async def rates(currency: str = "EUR") -> list[float]:
    return [1.0]


@job
def total(numbers: Sequence[int], *, factor: int = 1) -> int:
    return sum(numbers) * factor


job(on_crash="never")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
job(catch_up="twice")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
job(retries=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]

# Call


def call() -> None:
    assert_type(add(1, b=2), int)
    assert_type(add.run_later(1, b=2), JobHandle[int])
    assert_type(receipt.run_later(42, copy_to="a@b.c"), JobHandle[dict[str, Any]])
    assert_type(rates.run_later("EUR"), JobHandle[list[float]])
    urgent = receipt.using(
        queue="bulk",
        priority=9,
        run_after=90,
        unique_key="x",
        expires_after=60,
        timeout=None,
        max_attempts=3,
        backoff=[1, 60.0],
        tags=["tenant-42"],
    )
    assert_type(urgent.run_later(42), JobHandle[dict[str, Any]])
    add.using(run_after=datetime(2100, 1, 1)).run_later(1)
    add.using(run_after=timedelta(hours=1)).run_later(1)

    add.run_later("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    add.run_later(1, c=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    receipt.run_later()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    add.delay(1)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    add.using(colour="red")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def acall() -> None:
    assert_type(await rates("EUR"), list[float])
    handle = await rates.arun_later("EUR")
    assert_type(handle, JobHandle[list[float]])
    assert_type(await handle.ajoin(timeout=5), list[float])
    assert_type(await add.arun_later(1), JobHandle[int])
    assert_type(await handle.aretry(), bool)
    await handle.arefresh()
    await handle.acancel()
    assert_type(await aget_job(handle.id), JobHandle[Any])
    assert_type(await arun_many([add.bind(1)]), list[JobHandle[int]])


# Follow


def follow(handle: JobHandle[int]) -> None:
    assert_type(handle.id, UUID)
    assert_type(handle.state, State)
    assert_type(handle.ended, bool)
    assert_type(handle.name, str)
    assert_type(handle.tags, list[str])
    assert_type(handle.created_at, datetime)
    assert_type(handle.finished_at, datetime | None)
    assert_type(handle.result, int | None)
    assert_type(handle.retry(), bool)
    assert_type(len(handle.errors), int)
    assert_type(get_job(handle.id), JobHandle[Any])
    anything: JobHandle[object] = handle
    plain: JobHandle = handle
    try:
        assert_type(handle.join(timeout=5), int)
    except JobFailed as failed:
        print(failed.exception_class, anything, plain)
    except JobCancelled as cancelled:
        print(cancelled.reason)


def inside() -> None:
    assert_type(current_job(), CurrentJob)
    assert_type(current_job_or_none(), CurrentJob | None)
    current_job().progress(1, 2)
    assert_type(drain(), int)


# Many, and pipelines


def many(jobs: RegisteredJob[[int], str]) -> None:
    assert_type(add.bind(1, b=2), BoundJob[int])
    assert_type(rates.bind(), BoundJob[list[float]])
    assert_type(run_many(add.bind(n) for n in range(3)), list[JobHandle[int]])
    assert_type(jobs.bind(1), BoundJob[str])

    pipeline = chain(group(add.bind(1), add.bind(2)), total.bind(factor=2), rates.bind_alone())
    assert_type(pipeline.run_later(), PipelineHandle)
    assert_type(pipeline.run_later().steps, list[JobHandle[Any]])
    each = chain(rates.bind(), expand(add), expand(add.bind(b=1), return_exceptions=True))
    assert_type(group([each, each], return_exceptions=True).run_later(), PipelineHandle)
    assert_type(total.bind(), BoundJob[int])  # the first argument is the result of the step before

    add.bind("1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    add.bind(1, 2, 3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    total.bind_alone(factor=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    run_many([add])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    expand(len)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    chain(add)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
