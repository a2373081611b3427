"""Fill a queue with millions of rows: copies of real rows, by one statement for each state."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from itertools import islice
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

from django.db import connections

from benchmarks.jobs import noop
from djjp.engine import Claimed, Engine, NewJob, Outcome
from djjp.engine.tiles import OF_ALL
from djjp.ids import new_id
from djjp.models import Job, Span, State, Total

CONSUMER = "scale"


class Size(NamedTuple):
    """Numbers of jobs of each kind, and of the queues that they are in."""

    ready: int
    finished: int
    scheduled: int
    queues: int

    def __str__(self) -> str:
        return (
            f"{self.ready:,} ready, {self.finished:,} finished, {self.scheduled:,} scheduled, "
            f"{self.queues:,} queues"
        )


SMALL = Size(ready=1_000, finished=0, scheduled=0, queues=1)

# Ids are ordered by time, as `new_id()` makes them; here they are a millisecond apart, in hexadecimal digits.
_SQLITE_ID = "printf('%%012x70008%%015x', {first} + {i}, {i})"
_POSTGRESQL_ID = (
    "(lpad(to_hex({first} + {i}), 12, '0') || '70008' || lpad(to_hex({i}), 15, '0'))::uuid"
)
_SQLITE_SERIES = """WITH RECURSIVE series(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM series
WHERE i + 1 < {count})"""
_POSTGRESQL_SERIES = "WITH series(i) AS (SELECT generate_series(0::bigint, {count}::bigint - 1))"

#: Of the finished jobs one in 50 failed, and one in 50 was cancelled. One in 20 is a step of a pipeline of 100.
_VARIED = {
    "name": "'shop.job' || (i %% 1000)",
    "consumer": "'host:' || (i %% 50) || ':x'",
    "state": "CASE i %% 50 WHEN 0 THEN 'failed' WHEN 1 THEN 'cancelled' ELSE 'succeeded' END",
    "attempts": "1 + i %% 4",
    "unique_key": "CASE WHEN i %% 10 = 0 THEN 'key' || i END",
    "pipeline": "CASE WHEN i %% 20 = 0 THEN {pipeline} END",
}
#: One job in 20 has two tags: one that all of these have, and one of 50.
_TAGS = """INSERT INTO djjp_tag (tag, job_id, ended)
SELECT CASE n WHEN 1 THEN 'billing' ELSE 'tenant-' || (i %% 1000) END, {id}, true
FROM series CROSS JOIN (SELECT 1 AS n UNION ALL SELECT 2) AS twice WHERE i %% 20 = 3"""
_ATTEMPTS = """INSERT INTO djjp_attempt (job_id, number, consumer, started_at, finished_at, exception_class,
message, traceback) SELECT id, attempts, consumer, started_at, finished_at,
'shop.errors.Error' || (attempts * 7 + length(queue)), 'no', replace(%s, 'NUMBER', '' || length(name))
FROM djjp_job WHERE state = 'failed' ORDER BY id"""
_TRACEBACK = (
    """Traceback (most recent call last):
  File "/srv/shop/orders/jobs.py", line NUMBER, in charge
    provider.charge(order.card, order.total)
"""
    + "".join(
        f"""  File "/srv/venv/lib/python3.12/site-packages/provider/layer{number}.py", line {number}, in call
    return self.layer{number + 1}.call(request, timeout=timeout)
"""
        for number in range(8)
    )
    + "shop.errors.Error: no\n"
)

#: Live jobs of other states than "ready", older than all that have finished.
BLOCKED, RUNNING = 20_000, 500


def fill(engine: Engine, size: Size) -> None:
    """Fill an empty queue."""
    others = size.scheduled + BLOCKED + RUNNING
    first = int(time.time() * 1000) - size.ready - size.finished - others - 3_600_000
    if size.finished:
        _copies(engine, _enqueued(engine, "q0", State.BLOCKED, None), BLOCKED, size.queues, first)
        running = {"state": "'running'", "consumer": "'host:' || (i %% 50) || ':x'"}
        _copies(engine, ready(engine, "q0"), RUNNING, size.queues, first + BLOCKED, running)
    first += BLOCKED + RUNNING
    scheduled = _enqueued(engine, "q0", State.SCHEDULED, time.time() + 86_400)
    _copies(engine, scheduled, size.scheduled, size.queues, first)
    first += size.scheduled
    # The oldest ones are plain, so that a prune of them costs what it costs on a small queue.
    plain = size.finished // 10
    _copies(engine, finished(engine), plain, size.queues, first)
    _varied(engine, size.finished - plain, size.queues, first + plain)
    _copies(engine, ready(engine, "q0"), size.ready, size.queues, first + size.finished)
    if size.finished:
        _totals(size.queues)
    with connections[engine.db.alias].cursor() as cursor:
        # The databases would do this automatically within the next hour.
        if engine.db.connection.vendor == "sqlite":
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            for table in ("djjp_job", "djjp_attempt", "djjp_tag", "djjp_total"):
                cursor.execute(f"VACUUM (ANALYZE) {table}")
            cursor.execute("CHECKPOINT")


def _varied(engine: Engine, count: int, queues: int, first: int) -> None:
    """Insert finished jobs of all kinds, with their attempts and tags."""
    sqlite = engine.db.connection.vendor == "sqlite"
    id, series = (_SQLITE_ID, _SQLITE_SERIES) if sqlite else (_POSTGRESQL_ID, _POSTGRESQL_SERIES)
    pipeline = id.format(first=first, i="(i - i %% 2000)")
    values = {key: text.format(pipeline=pipeline) for key, text in _VARIED.items()}
    _copies(engine, finished(engine), count, queues, first, values)
    if count:
        with connections[engine.db.alias].cursor() as cursor:
            tags = _TAGS.format(id=id.format(first=first, i="i"))
            cursor.execute(f"{series.format(count=count)} {tags}", [])
            cursor.execute(_ATTEMPTS, [_TRACEBACK])


def _totals(names: int) -> None:
    """Write totals of names, each in a queue, for minutes of two hours, hours of a week and days of a month."""
    now = int(time.time())
    spans = {
        Span.MINUTE: (60, 120),
        Span.HOUR: (3600, 168),
        Span.DAY: (86_400, 30),
        Span.EVER: (0, 1),
    }
    rows = (
        Total(
            span=span,
            starts_at=now // seconds * seconds - seconds * ago if seconds else 0,
            queue=f"q{number}",
            name=f"shop.job{number}",
            succeeded=1000,
            failed=10,
            wait_seconds=900.0,
            run_seconds=90.0,
            waits='{"-3":500,"-1":400,"1":110}',
            runs='{"-5":500,"-3":400,"0":110}',
        )
        for span, (seconds, count) in spans.items()
        for ago in range(count)
        for number in range(names)
    )
    for some in iter(lambda: list(islice(rows, 10_000)), []):
        Total.objects.bulk_create(some)
    for span, of_all in OF_ALL.items():
        seconds, count = spans[span]
        Total.objects.bulk_create(
            Total(
                span=of_all,
                starts_at=now // seconds * seconds - seconds * ago,
                succeeded=1000 * names,
                failed=10 * names,
                wait_seconds=900.0 * names,
                run_seconds=90.0 * names,
                waits=json.dumps({"-3": 500 * names, "-1": 400 * names, "1": 110 * names}),
                runs=json.dumps({"-5": 500 * names, "-3": 400 * names, "0": 110 * names}),
            )
            for ago in range(count)
        )


def ready(engine: Engine, name: str) -> UUID:
    """Enqueue a ready job; return its id."""
    return _enqueued(engine, name, State.READY, None)


def finished(engine: Engine) -> UUID:
    """Enqueue, claim and finish a job by the verbs that a consumer uses; return its id."""
    id = ready(engine, "q0")
    with engine.db.transaction():
        claimed = engine.jobs.claim(CONSUMER, 1, time.time())
    with engine.db.transaction():
        engine.jobs.finish(CONSUMER, outcomes(claimed))
    return id


def outcomes(claimed: list[Claimed]) -> list[Outcome]:
    """Return a success for each of the jobs."""
    now = time.time()
    return [Outcome(job, State.SUCCEEDED, now, now, "null") for job in claimed]


def new(name: str, state: State = State.READY, run_after: float | None = None) -> NewJob:
    """Return a new job as `run_later` would enqueue it."""
    arguments = '{"args": [1], "kwargs": {}}'
    return NewJob(new_id(), noop.name, name, 0, state, run_after, time.time(), arguments)


def _enqueued(engine: Engine, name: str, state: State, run_after: float | None) -> UUID:
    job = new(name, state, run_after)
    engine.jobs.enqueue(job)
    return job.id


def _copies(
    engine: Engine,
    template: UUID,
    count: int,
    queues: int,
    first: int,
    also: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Insert copies of a row, over all queues in turn and with other values, and delete the row itself."""
    sqlite = engine.db.connection.vendor == "sqlite"
    id, series = (_SQLITE_ID, _SQLITE_SERIES) if sqlite else (_POSTGRESQL_ID, _POSTGRESQL_SERIES)
    columns = [field.attname for field in Job._meta.concrete_fields]
    values = {"id": id.format(first=first, i="i"), "queue": f"'q' || (i %% {queues})", **also}
    selected = ", ".join(values.get(column, f"template.{column}") for column in columns)
    key = template.hex if sqlite else template
    with connections[engine.db.alias].cursor() as cursor:
        if count:
            cursor.execute(
                f"{series.format(count=count)} INSERT INTO djjp_job ({', '.join(columns)}) SELECT {selected} "
                "FROM series CROSS JOIN djjp_job AS template WHERE template.id = %s",
                [key],
            )
        cursor.execute("DELETE FROM djjp_job WHERE id = %s", [key])
