"""The verbs as the tests call them: each turn by itself, at a time of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.db import connections

import djjp.engine
from djjp.durations import to_datetime
from djjp.engine import Claimed, Engine, Failure, Outcome, Peer
from djjp.models import Attempt, Consumer, Job, State
from tests.support.factories import new_job

NOW = 1_767_225_600.25


def everything() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return list(Job.objects.order_by("id").values()), list(Attempt.objects.order_by("id").values())


def row(id: UUID) -> dict[str, Any]:
    """A job's row as the ORM reads it."""
    return Job.objects.values().get(id=id)


def claim(engine: Engine, consumer: str = "one", limit: int = 100, **options: Any) -> list[Claimed]:
    with engine.db.transaction():
        return engine.jobs.claim(consumer, limit, NOW, **options)


def finish(engine: Engine, consumer: str, *outcomes: Outcome) -> set[UUID]:
    with engine.db.transaction():
        return engine.jobs.finish(consumer, outcomes)


def release(engine: Engine, consumer: str, *jobs: Claimed) -> set[UUID]:
    with engine.db.transaction():
        return engine.jobs.release(consumer, jobs)


def done(job: Claimed, result: str = "null") -> Outcome:
    return Outcome(job, State.SUCCEEDED, NOW, NOW + 1, result=result)


def failed(job: Claimed, message: str = "it broke") -> Outcome:
    return Outcome(job, State.FAILED, NOW, NOW + 1, failure=Failure("E", message, "where"))


def enqueue(engine: Engine, count: int = 1, /, **given: Any) -> list[UUID]:
    jobs = [new_job(**given) for _ in range(count)]
    engine.jobs.enqueue_many(jobs)
    return [job.id for job in jobs]


def one(engine: Engine, consumer: str = "one") -> Claimed:
    """A job of this consumer: enqueued and claimed."""
    enqueue(engine)
    [job] = claim(engine, consumer)
    return job


def at_once(*works: Callable[[Engine], Any]) -> list[Any]:
    """Do each in a thread with a connection of its own, all starting together; returns their results."""
    results: list[Any] = [None] * len(works)
    start = threading.Barrier(len(works))

    def run(number: int) -> None:
        try:
            start.wait()
            results[number] = works[number](djjp.engine.current())
        except BaseException as error:  # noqa: BLE001  (raised again below)
            results[number] = error
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=[number]) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def take(
    engine: Engine, consumer: str = "one", *ended: Outcome, limit: int = 100, **options: Any
) -> list[Claimed]:
    """What of a consumer's turn has to do with terms: write ends, claim, and keep what may run now."""
    with engine.db.transaction():
        engine.jobs.finish(consumer, ended)
        claimed = engine.jobs.claim(consumer, limit, NOW, **options)
        return engine.admission.admit(claimed, [outcome.claimed.id for outcome in ended]).jobs


def register_consumer(
    engine: Engine, name: str, heartbeat: float = NOW, locked: bool = True
) -> Peer:
    """Write a consumer's row, and return the consumer as its peers read it."""
    engine.consumers.register(
        Consumer(
            name=name,
            host="host",
            pid=7,
            concurrency="threads",
            concurrency_limit=10,
            started_at=to_datetime(heartbeat),
            heartbeat_at=to_datetime(heartbeat),
            locked=locked,
        )
    )
    return Peer(name, heartbeat, locked)
