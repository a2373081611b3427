"""The engine as the tests call it: each call in a transaction of its own, at a fixed time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.db import connections

import djjp.engine
from djjp.durations import to_datetime
from djjp.engine import Claimed, Engine, Failure, Liveness, Outcome, Peer
from djjp.models import Attempt, Consumer, Job, State
from tests.support.factories import new_job

NOW = 1_767_225_600.25


def everything() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    jobs, attempts = Job.objects.order_by("id").values(), Attempt.objects.order_by("id").values()
    return [dict(job) for job in jobs], [dict(attempt) for attempt in attempts]


def row(id: UUID) -> dict[str, Any]:
    """Return a job's row as the ORM reads it."""
    return dict(Job.objects.values().get(id=id))


def claim(engine: Engine, consumer: str = "one", limit: int = 100, **options: Any) -> list[Claimed]:
    """Claim jobs as several turns would: the last ones were rescued, and a turn claims one of these."""
    with engine.db.transaction():
        jobs = engine.jobs.claim(consumer, limit, NOW, **options)
        while not options and len(jobs) < limit and (suspect := _suspect(engine, consumer)):
            jobs += suspect
        return jobs


def claim_suspect(engine: Engine, consumer: str = "one") -> list[Claimed]:
    """Claim the first job that was rescued, if there is one."""
    with engine.db.transaction():
        return _suspect(engine, consumer)


def _suspect(engine: Engine, consumer: str) -> list[Claimed]:
    place = engine.suspects.first(engine.queues.with_suspects())
    return [] if place is None else engine.suspects.claim(consumer, place.id, NOW)


def finish(engine: Engine, consumer: str, *outcomes: Outcome) -> set[UUID]:
    """Write outcomes in a transaction of their own; return the jobs whose outcomes were accepted."""
    with engine.db.transaction():
        refused = engine.jobs.finish(consumer, outcomes)
    return {outcome.claimed.id for outcome in outcomes if outcome.claimed.key not in refused}


def release(engine: Engine, consumer: str, *jobs: Claimed) -> set[UUID]:
    """Release jobs in a transaction of their own; return the released ones."""
    with engine.db.transaction():
        refused = engine.jobs.release(consumer, jobs)
    return {job.id for job in jobs if job.key not in refused}


def done(job: Claimed, result: str | None = "null") -> Outcome:
    return Outcome(job, State.SUCCEEDED, NOW, NOW + 1, result=result)


def failed(job: Claimed, message: str = "it broke") -> Outcome:
    return Outcome(job, State.FAILED, NOW, NOW + 1, failure=Failure("E", message, "where"))


def enqueue(engine: Engine, count: int = 1, /, **given: Any) -> list[UUID]:
    jobs = [new_job(**given) for _ in range(count)]
    engine.jobs.enqueue_many(jobs)
    return [job.id for job in jobs]


def one(engine: Engine, consumer: str = "one") -> Claimed:
    """Enqueue a job, claim it for this consumer and return it."""
    enqueue(engine)
    [job] = claim(engine, consumer)
    return job


def at_once(*works: Callable[[Engine], Any]) -> list[Any]:
    """Call each function in a thread with a connection of its own, all at once; return their results."""
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


def end(engine: Engine, consumer: str, *ended: Outcome) -> None:
    """Take a turn that writes outcomes and claims nothing."""
    take(engine, consumer, *ended, limit=0)


def take(
    engine: Engine, consumer: str = "one", *ended: Outcome, limit: int = 100, **options: Any
) -> list[Claimed]:
    """Take a turn with constraints: write outcomes, claim, and return the admitted jobs."""
    with engine.db.transaction():
        engine.jobs.finish(consumer, ended)
        claimed = _suspect(engine, consumer)
        if len(claimed) < limit:
            claimed += engine.jobs.claim(consumer, limit - len(claimed), NOW, **options)
        return engine.admission.admit(claimed, [outcome.claimed.id for outcome in ended]).jobs


def lives(engine: Engine, name: str) -> bool:
    """Return whether a consumer holds a lock."""
    return engine.consumers.liveness(Peer(name, NOW, locked=True)) is Liveness.LIVES


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
