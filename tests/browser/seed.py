"""A queue with rows of all kinds: jobs in each state, pipelines, schedules, incidents, operations, an outbox."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from djjp import chain, group, queues
from djjp.ids import first_id, new_id
from djjp.models import (
    Attempt,
    Consumer,
    Depth,
    Incident,
    Job,
    Operation,
    Progression,
    Schedule,
    Span,
    State,
    Tag,
    Total,
    Verb,
)
from djjp.outbox.models import OutboxJob
from tests.project.shop.jobs import add, echo, fail, items
from tests.support.consumers import drain
from tests.support.factories import consumer_row
from tests.support.processes import ROOT

#: The consumer of the seeded jobs, on another machine: the pages see that it lives by its heartbeat.
CONSUMER = "web-2:4711:a1b2c3d4"
#: A name that is long, one with HTML in it, and one with all that an address must escape.
LONG = "shop.catalogue.search." + "very_long_part_of_a_name." * 6 + "rebuild"
HTML = "shop.<b>bold</b>&amp;"
SLASHED = "mail/eu?x=1#top"

_FRAMES = "".join(
    f'  File "/usr/lib/python3/site-packages/provider/layer{number}.py", line {number}, in call\n'
    f"    return self.layer{number + 1}.call(request)\n"
    for number in range(6)
)
TRACEBACK = f"""Traceback (most recent call last):
  File "/srv/shop/billing.py", line 12, in charge
    gateway.pay(order)
{_FRAMES}shop.errors.PaymentRefused: card declined for order 4711
"""


class Seeded(NamedTuple):
    """The rows that were seeded: a job in each state, by its state, and what else has a page.

    Attributes:
        pipeline, step: a pipeline of 20 steps, and the one that has failed.
        underway: a pipeline that has not ended.
        long: a failed job with a long name and a traceback of 5,000 lines.
        aside: a row of the outbox that is set aside.
        copied: a job whose function is registered.
        paused: a job that waits in a paused queue.
        schedule, disabled: a schedule that is enabled, and one that is not.
        operation, waiting: an operation that is done, and one that has not started.
    """

    jobs: dict[State, UUID]
    pipeline: UUID
    step: UUID
    underway: UUID
    long: UUID
    copied: UUID
    paused: UUID
    schedule: int
    disabled: int
    incident: UUID
    operation: UUID
    waiting: UUID
    aside: UUID


def seed() -> Seeded:
    """Write rows of all kinds."""
    pipeline = _pipelines()  # first: a consumer runs them
    consumer_row(CONSUMER, host="web-2", pid=4711, release="2026.11.2", queues='["*", "not bulk"]')
    consumer_row("web-1:17:feed", ago=3.0, host="web-1", pid=17, quiet=True, release="2026.11.1")
    Consumer.objects.filter(pk=CONSUMER).update(started_at=timezone.now() - timedelta(hours=5))
    jobs = {state: make(state, number) for number, state in enumerate(State)}
    for number in range(12):
        make(State.SUCCEEDED, 10 + number, name=f"shop.report{number % 4}")
    for number in range(3):
        make(State.FAILED, 60 + number)
        make(State.READY, 70 + number, queue=SLASHED, name=HTML)
    long = make(State.FAILED, 90, name=LONG, traceback=_long_traceback())
    copied = make(State.SUCCEEDED, 91, name=add.name, arguments='{"args":[1],"kwargs":{"b":2}}')
    _totals()
    _depths()
    queues.pause("bulk", 7200)
    return Seeded(
        jobs,
        pipeline,
        Job.objects.get(pipeline=pipeline, state=State.FAILED).pk,
        _underway(),
        long,
        copied,
        make(State.READY, 95, queue="bulk"),
        *_schedules(),
        _incidents(),
        *_operations(),
        _outbox(),
    )


def make(state: State, minutes: int = 0, *, traceback: str = TRACEBACK, **given: Any) -> UUID:
    """Write a job that was enqueued some minutes ago."""
    created = timezone.now() - timedelta(minutes=minutes, seconds=5)
    fields: dict[str, Any] = {
        "id": UUID(int=first_id(created.timestamp()).int | new_id().int & ((1 << 80) - 1)),
        "name": "shop.billing.charge",
        "state": state,
        "created_at": created,
        "arguments": '{"args":[4711,"customer-3"],"kwargs":{"password":"hunter2","amount":'
        '{"$djjp":"decimal","value":"9.90"}}}',
        "options": '{"tags":["billing","tenant-42"]}',
    }
    if state in (State.RUNNING, State.SUCCEEDED, State.FAILED):
        fields |= {"started_at": created + timedelta(seconds=2), "attempts": 1}
        fields["consumer"] = CONSUMER
    if state in (State.SUCCEEDED, State.FAILED, State.CANCELLED):
        fields["finished_at"] = created + timedelta(seconds=4)
    fields |= _of_state(state)
    row = Job.objects.create(**fields | given)
    Tag.objects.bulk_create([Tag(tag=tag, job=row) for tag in ("billing", "tenant-42")])
    if state is State.FAILED:
        for number in (1, 2):
            Attempt.objects.create(
                job=row,
                number=number,
                consumer=CONSUMER,
                started_at=fields["started_at"],
                finished_at=fields["finished_at"],
                exception_class="shop.errors.PaymentRefused",
                message="card declined for order 4711",
                traceback=traceback,
            )
    return row.pk


def _of_state(state: State) -> dict[str, Any]:
    """Return the fields that only a job in this state has."""
    match state:
        case State.SCHEDULED:
            return {"run_after": timezone.now() + timedelta(minutes=9)}
        case State.BLOCKED:
            return {"limit_key": "tenant-3", "limit_max": 1, "flags": 4}
        case State.RUNNING:
            return {"progress_done": 40, "progress_total": 100}
        case State.SUCCEEDED:
            return {"result": '{"sent":true}'}
        case State.FAILED:
            return {"attempts": 2}
        case State.CANCELLED:
            return {"reason": "cancelled by a user"}
    return {}


def _long_traceback() -> str:
    frame = (
        '  File "/srv/shop/deep.py", line {number}, in recurse\n    return recurse(number + 1)\n'
    )
    frames = "".join(frame.format(number=number) for number in range(2500))
    return f"Traceback (most recent call last):\n{frames}RecursionError: too deep\n"


def _pipelines() -> UUID:
    """Run pipelines, and return the id of one of 20 steps, one of which fails."""
    members = [add.bind(number, 1) for number in range(17)]
    handle = chain(group(*members, fail.bind("out of stock")), echo.bind()).run_later()
    chain(add.bind(1, 2), add.bind(3)).run_later()
    drain(2)
    for attempt in Attempt.objects.all():  # no picture shows where the tests are
        attempt.traceback = attempt.traceback.replace(str(ROOT), "/srv")
        attempt.save()
    pipeline = Job.objects.get(pk=handle.id).pipeline
    assert pipeline is not None
    return pipeline


def _underway() -> UUID:
    handle = chain(items.bind(3), echo.bind()).run_later()
    found = Job.objects.get(pk=handle.id).pipeline
    assert found is not None
    return found


def _totals() -> None:
    """Write the totals of an hour, in which more and more fail."""
    now = int(time.time())
    Total.objects.all().delete()  # of the pipelines
    rows: dict[Any, Total] = {}
    for ago in range(60):
        for name, queue in (("shop.billing.charge", "default"), ("shop.mail", "mail")):
            failed = 3 if queue == "default" and ago < 15 else 0
            for span, length in ((Span.MINUTE, 60), (Span.HOUR, 3600), (Span.DAY, 86_400)):
                starts_at = (now - 60 * ago) // length * length
                row = rows.setdefault(
                    (span, starts_at, queue),
                    Total(span=span, starts_at=starts_at, queue=queue, name=name),
                )
                row.succeeded += 40 + 7 * (ago % 5)
                row.failed += failed
                row.wait_seconds += 20.0
                row.run_seconds += 30.0
                row.waits, row.runs = '{"-3":20,"-1":15,"1":5}', '{"-5":10,"-1":25,"0":5}'
    Total.objects.bulk_create(rows.values())


def _depths() -> None:
    minute = int(time.time()) // 60 * 60
    Depth.objects.all().delete()
    for ago in range(60):
        Depth.objects.create(queue="", minute=minute - 60 * ago)
        Depth.objects.create(
            queue="default", minute=minute - 60 * ago, ready=50 - ago // 2, running=4, oldest_wait=3
        )


def _outbox() -> UUID:
    """Leave a job in the application's outbox, as a process that died after its commit; and one set aside.

    Returns:
        The id of the one that is set aside.
    """
    id = new_id()
    for problem in (None, "the queue's database refused it: value too long"):
        with transaction.atomic("default"):
            add.run_later(1, 2)
            row = OutboxJob.objects.latest("pk")
            transaction.set_rollback(True, using="default")
        row.problem = problem
        row.created_at = timezone.now() - timedelta(seconds=8)
        row.save(force_insert=True, using="default")
        id = row.pk
    return id


def _schedules() -> tuple[int, int]:
    now = time.time()
    good = Schedule.objects.create(
        name="nightly report",
        job=add.name,
        cron="0 2 * * *",
        tz="Europe/Berlin",
        arguments='{"args":[1,2],"kwargs":{}}',
        fired_until=now,
    )
    off = Schedule.objects.create(
        name="every five minutes",
        job=echo.name,
        every=timedelta(minutes=5),
        arguments='{"args":[],"kwargs":{}}',
        fired_until=now,
        enabled=False,
    )
    return good.pk, off.pk


def _incidents() -> UUID:
    now = timezone.now()
    Incident.objects.create(
        kind="wait",
        subject="bulk",
        opened_at=now - timedelta(hours=3),
        seen_at=now - timedelta(hours=2),
        closed_at=now - timedelta(hours=2),
        facts=json.dumps({"wait": 412.0, "limit": 300.0}),
    )
    row = Incident.objects.create(
        kind="failing",
        subject="shop.billing.charge",
        opened_at=now - timedelta(minutes=14),
        seen_at=now,
        facts=json.dumps({"failed": 15, "ended": 20}),
    )
    return row.pk


def _operations() -> tuple[UUID, UUID]:
    now = timezone.now()
    common = {"until": new_id(), "requested_by": "admin:admin", "created_at": now}
    done = Operation.objects.create(
        verb=Verb.RETRY,
        filter="state:failed name:shop.mail",
        state=Progression.DONE,
        matched=4200,
        done=4197,
        skipped='{"succeeded":3}',
        started_at=now - timedelta(minutes=2),
        finished_at=now - timedelta(minutes=1),
        **common,
    )
    waiting = Operation.objects.create(
        verb=Verb.CANCEL, filter="queue:bulk", state=Progression.WAITING, matched=0, **common
    )
    return done.pk, waiting.pk
