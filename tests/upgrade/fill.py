"""Fill the queue in force, and an outbox, with rows of every kind, for the fixture of a release."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

from djjp import chain, engine, expand, queues, tokens
from djjp.engine.idempotency import Request
from djjp.models import (
    Consumer,
    Depth,
    Incident,
    Job,
    Occurrence,
    Operation,
    Relayed,
    Release,
    Schedule,
    State,
    Token,
    Total,
    Transfer,
)
from djjp.outbox import table
from djjp.testing import drain
from tests.upgrade import jobs

#: The text of the token in each fixture.
TOKEN = tokens.PREFIX + "upgrade" + 36 * "0"
#: The day of all rows that have no time of an enqueue.
DAY = datetime(2026, 11, 29, 12, tzinfo=UTC)
MINUTE = int(DAY.timestamp())


def fill() -> None:
    """Write all rows; those that are due stay for the test, which runs them with the code of its day."""
    write_ended_jobs()
    write_started_pipeline()
    write_jobs_left()
    write_running_job_of_dead_consumer()
    write_beside_jobs()


def fill_outbox(alias: str) -> None:
    """Write a job into an outbox, as of a transaction whose process ended before it sent the job to the queue."""
    table.write(alias, [jobs.add.bind(500, 5).to_row()])


def write_ended_jobs() -> None:
    jobs.add.run_later(1, 2)
    jobs.fail.using(max_attempts=1).run_later("ended")
    jobs.fail.run_later("again in an hour")
    jobs.rated.run_later()
    jobs.add.run_later(0).cancel()
    jobs.add.using(expires_after=timedelta(microseconds=1)).run_later(0)
    drain()


def write_started_pipeline() -> None:
    """A pipeline that has expanded, with one of three members done."""
    chain(jobs.numbers.bind(3), expand(jobs.add.bind(right=10)), jobs.total.bind()).run_later()
    drain(max_jobs=2)


def write_jobs_left() -> None:
    for _ in range(2):
        jobs.limited.run_later()
    jobs.unique.run_later(7)
    jobs.add.using(run_after=timedelta(days=36500)).run_later(3, 3)
    queues.pause("upgrade-paused")
    jobs.add.using(queue="upgrade-paused").run_later(4, 4)


def write_running_job_of_dead_consumer() -> None:
    Consumer(
        name="dead:1:a",
        host="dead",
        pid=1,
        concurrency="threads",
        concurrency_limit=2,
        started_at=DAY,
        heartbeat_at=DAY,
        locked=False,
    ).save()
    running = jobs.add.using(priority=-5).run_later(100, 1)
    held = {"state": State.RUNNING, "consumer": "dead:1:a", "started_at": DAY, "claim": 1}
    Job.objects.filter(pk=running.id).update(**held)


def write_beside_jobs() -> None:
    token = Token(name="upgrade", digest=tokens.digest(TOKEN), scope="operate", created_at=DAY)
    token.save()
    write_request_over_http(token)
    schedule = Schedule(
        name="upgrade.nightly",
        job="upgrade.nightly",
        cron="0 3 * * *",
        arguments='{"args":[],"kwargs":{}}',
        fired_until=MINUTE - 2 * 86_400.0,  # an occurrence is missed, and is due
    )
    schedule.save()
    Occurrence(schedule=schedule.pk, occurs_at=float(MINUTE)).save(force_insert=True)
    Incident(kind="no_consumer", subject="default", opened_at=DAY, seen_at=DAY).save()
    Operation(
        verb="retry", filter="state=failed", state="done", until=uuid.UUID(int=0), created_at=DAY
    ).save()
    Release(name="2026.11", appeared_at=DAY).save()
    Relayed(id=uuid.UUID(int=1), relayed_at=DAY).save(force_insert=True)
    Transfer(other="other", incoming=True, started_at=DAY, finished_at=DAY).save(force_insert=True)
    key = {"queue": "default", "name": "upgrade.add"}
    Total(span="day", starts_at=MINUTE, succeeded=3, **key).save(force_insert=True)
    Depth(queue="default", minute=MINUTE, ready=1).save(force_insert=True)


def write_request_over_http(token: Token) -> None:
    request = Request(token=token.pk, key="order-17", fingerprint=64 * "0")
    new = jobs.over_http.bind(17).to_row()
    engine.current().idempotency.enqueue(request, [new], DAY.timestamp())
