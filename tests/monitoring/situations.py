"""Situations: states of a queue in which one job does not run, or has ended, each for a cause that is known.

Whatever shows causes is tested with these: `explain`, incidents, and the status. A situation is a context manager
that takes the engine and yields the id of the job; `SITUATIONS` has them with their codes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from djjp import Limit, chain, group, job, queues
from djjp.engine import Engine
from djjp.ids import new_id
from djjp.limits import Rate
from djjp.models import Consumer, Job, State, Transfer
from djjp.monitoring.requests import quiet
from djjp.outbox.models import OutboxJob
from tests.project.shop.jobs import add, echo, fail, nap
from tests.support.consumers import consuming, drain
from tests.support.factories import consumer_row, new_job
from tests.support.processes import eventually

#: The name of a consumer on another machine: it claims nothing, and shows that it lives by its heartbeat.
ELSEWHERE = "elsewhere:1:a"
#: The name of a consumer without a row, which is dead.
GONE = "gone:1:a"


class Situation(NamedTuple):
    """A situation with the codes of its causes, the worst first, and the beginning of the first remedy."""

    begin: Callable[[Engine], AbstractContextManager[UUID]]
    codes: list[str]
    remedy: str


SITUATIONS: dict[str, Situation] = {}


def situation(
    *codes: str, remedy: str
) -> Callable[[Callable[[Engine], Iterator[UUID]]], Callable[[Engine], Iterator[UUID]]]:
    """Enter a generator function in `SITUATIONS`."""

    def enter(function: Callable[[Engine], Iterator[UUID]]) -> Callable[[Engine], Iterator[UUID]]:
        name = function.__name__.replace("_", " ")
        SITUATIONS[name] = Situation(
            contextmanager(function), list(codes), f"python manage.py {remedy}"
        )
        return function

    return enter


@job(name="situations.limited", limit=Limit("printer", 1))
def limited() -> None:
    """Run alone."""


@job(name="situations.rated", limit=Rate("api", 1, per=3600))
def rated() -> None:
    """Start once in an hour."""


def consumer(name: str = ELSEWHERE, **given: Any) -> Consumer:
    """Write the row of a consumer on another machine."""
    return consumer_row(name, **given)


def run(engine: Engine, count: int = 1, owner: str = ELSEWHERE, queue: str = "default") -> None:
    """Have a consumer claim jobs."""
    with engine.db.transaction():
        claimed = engine.jobs.claim(owner, count, time.time(), queues=[queue])
        engine.admission.admit(claimed)


def end_cancelled(engine: Engine) -> None:
    """End the jobs whose cancellation was requested, as the consumers elsewhere that run them would."""
    running = Job.objects.filter(state=State.RUNNING, consumer__in=[ELSEWHERE, GONE])
    for row in running.filter(cancel_requested=True):
        Job.objects.filter(pk=row.pk).update(state=State.CANCELLED, finished_at=timezone.now())
        with engine.db.transaction():
            engine.pipelines.resolve_dependents([row.pk])
            engine.limits.unblock([row.pk])


# Queues and consumers


@situation("paused", remedy="djjp resume mail")
def the_queue_is_paused(engine: Engine) -> Iterator[UUID]:
    consumer()
    queues.pause("mail")
    yield add.using(queue="mail").run_later(1, 2).id


@situation("paused", remedy="djjp resume mail")
def the_queue_is_paused_for_a_time(engine: Engine) -> Iterator[UUID]:
    consumer()
    queues.pause("mail", 3600)
    yield add.using(queue="mail").run_later(1, 2).id


@situation("no_consumer", remedy="start_consumer --queues mail")
def no_consumer_is_there(engine: Engine) -> Iterator[UUID]:
    yield add.using(queue="mail").run_later(1, 2).id


@situation("no_consumer", remedy="start_consumer --queues mail")
def no_consumer_serves_the_queue(engine: Engine) -> Iterator[UUID]:
    consumer(queues='["default:3", "report.*:1"]')
    yield add.using(queue="mail").run_later(1, 2).id


@situation("no_consumer", remedy="start_consumer --queues mail")
def the_queue_is_excluded(engine: Engine) -> Iterator[UUID]:
    consumer(queues='["*", "not mail"]')
    yield add.using(queue="mail").run_later(1, 2).id


@situation("no_consumer", remedy="start_consumer --queues default")
def the_consumer_is_dead(engine: Engine) -> Iterator[UUID]:
    consumer(ago=120)
    yield add.run_later(1, 2).id


@situation("no_consumer", remedy="djjp consumers unquiet")
def the_consumer_is_quiet(engine: Engine) -> Iterator[UUID]:
    with consuming(1) as found:
        eventually(Consumer.objects.exists)
        quiet(found.name, timeout=30)
        yield add.run_later(1, 2).id


@situation("not_registered", remedy="start_consumer --queues default")
def no_consumer_knows_the_name(engine: Engine) -> Iterator[UUID]:
    consumer(names='["shop.other", "shop.add2"]')
    yield add.run_later(1, 2).id


@situation("not_registered", remedy="djjp cancel")
def the_code_of_the_job_is_gone(engine: Engine) -> Iterator[UUID]:
    consumer(names='["shop.add"]')
    gone = new_job(name="shop.gone")
    engine.jobs.enqueue(gone)
    yield gone.id


# Limits and rates


@situation("limit", remedy="djjp cancel")
def the_limit_is_full(engine: Engine) -> Iterator[UUID]:
    consumer()
    limited.run_later()
    waiting = limited.run_later().id
    run(engine, 2)
    assert Job.objects.get(pk=waiting).state == State.BLOCKED
    yield waiting


@situation("limit", remedy="djjp cancel")
def the_limit_is_full_for_a_ready_job(engine: Engine) -> Iterator[UUID]:
    consumer()
    limited.run_later()
    run(engine)
    yield limited.run_later().id


@situation("limit", remedy="start_consumer --queues default")
def the_permits_are_held_by_a_dead_consumer(engine: Engine) -> Iterator[UUID]:
    consumer()
    limited.run_later()
    run(engine, 1, GONE)
    yield limited.run_later().id


@situation("rate", remedy="djjp cancel")
def the_rate_is_used_up(engine: Engine) -> Iterator[UUID]:
    consumer()
    rated.run_later()
    waiting = rated.run_later().id
    run(engine, 2)
    assert Job.objects.get(pk=waiting).state == State.SCHEDULED
    yield waiting


@situation("rate", remedy="djjp cancel")
def the_rate_is_used_up_for_a_ready_job(engine: Engine) -> Iterator[UUID]:
    consumer()
    rated.run_later()
    run(engine)
    yield rated.run_later().id


# Times and pipelines


@situation("scheduled", remedy="djjp run")
def its_time_has_not_come(engine: Engine) -> Iterator[UUID]:
    consumer()
    yield add.using(run_after=timedelta(hours=1)).run_later(1, 2).id


@situation("scheduled", remedy="djjp run")
def it_waits_for_its_next_attempt(engine: Engine) -> Iterator[UUID]:
    consumer()
    handle = fail.using(max_attempts=3, backoff=3600).run_later("no")
    drain_here()
    yield handle.id


@situation("parents", remedy="djjp resume mail")
def the_queue_of_its_parent_is_paused(engine: Engine) -> Iterator[UUID]:
    consumer()
    queues.pause("mail")
    yield chain(add.using(queue="mail").bind(1, 2), add.bind(3), add.bind(4)).run_later().id


@situation("parents", remedy="djjp cancel")
def its_parent_runs(engine: Engine) -> Iterator[UUID]:
    consumer()
    handle = chain(group(add.bind(1, 2), nap.bind(0)), echo.bind()).run_later()
    run(engine)
    Job.objects.filter(state=State.READY).update(state=State.SUCCEEDED)
    yield handle.id


@situation("parents", remedy="djjp cancel")
def the_limit_of_its_parent_is_full(engine: Engine) -> Iterator[UUID]:
    consumer()
    limited.run_later()
    run(engine)
    yield chain(limited.bind(), nap.bind(), nap.bind()).run_later().id


# The line and the slots


@situation("line", remedy="start_consumer --queues default")
def others_come_before_it(engine: Engine) -> Iterator[UUID]:
    consumer()
    for _ in range(3):
        add.run_later(1, 2)
    yield add.run_later(1, 2).id


@situation("line", remedy="start_consumer --queues default")
def it_is_the_next_one(engine: Engine) -> Iterator[UUID]:
    consumer()
    yield add.run_later(1, 2).id


@situation("line", remedy="start_consumer --queues default")
def it_is_a_suspect(engine: Engine) -> Iterator[UUID]:
    consumer()
    suspect = add.run_later(1, 2).id
    Job.objects.update(rescues=1)
    yield suspect


@situation("busy", "line", remedy="start_consumer --queues default")
def all_slots_are_busy(engine: Engine) -> Iterator[UUID]:
    consumer(concurrency_limit=2)
    for _ in range(2):
        nap.run_later(0)
    run(engine, 2)
    yield add.run_later(1, 2).id


@situation("busy", "running", remedy="start_consumer --queues default")
def it_is_claimed_ahead(engine: Engine) -> Iterator[UUID]:
    consumer(concurrency_limit=2)
    for _ in range(2):
        nap.run_later(0)
    ahead = add.run_later(1, 2).id
    run(engine, 3)
    yield ahead


# Outboxes


@situation("outbox", remedy="start_consumer")
def it_is_in_an_outbox(engine: Engine) -> Iterator[UUID]:
    # Written as by a process that has died after its commit, before the relay.
    with transaction.atomic("default"):
        handle = add.run_later(1, 2)
        row = OutboxJob.objects.get()
        transaction.set_rollback(True, using="default")
    row.save(force_insert=True, using="default")
    yield handle.id


@situation("outbox", remedy="djjp outbox --retry")
def the_queue_has_refused_it(engine: Engine) -> Iterator[UUID]:
    for id in it_is_in_an_outbox(engine):
        OutboxJob.objects.update(problem="its queue is none")
        yield id


# Running and ended


@situation("running", remedy="djjp cancel")
def it_runs(engine: Engine) -> Iterator[UUID]:
    consumer()
    handle = nap.run_later(0)
    run(engine)
    yield handle.id


@situation("running", remedy="start_consumer --queues default")
def its_consumer_is_dead(engine: Engine) -> Iterator[UUID]:
    handle = add.run_later(1, 2)
    run(engine)
    yield handle.id


@situation("ended", remedy="djjp show")
def it_has_succeeded(engine: Engine) -> Iterator[UUID]:
    handle = add.run_later(1, 2)
    drain()
    yield handle.id


@situation("ended", remedy="djjp retry")
def it_has_failed(engine: Engine) -> Iterator[UUID]:
    handle = fail.run_later("no")
    drain()
    yield handle.id


@situation("ended", remedy="djjp retry")
def it_was_cancelled(engine: Engine) -> Iterator[UUID]:
    handle = add.run_later(1, 2)
    handle.cancel()
    yield handle.id


@situation("ended", remedy="djjp retry")
def its_parent_has_failed(engine: Engine) -> Iterator[UUID]:
    handle = chain(fail.bind("no"), add.bind(1)).run_later()
    drain()
    yield handle.id


@situation("ended", remedy="djjp retry")
def it_has_expired(engine: Engine) -> Iterator[UUID]:
    handle = add.using(expires_after=0.001).run_later(1, 2)
    eventually(lambda: engine.expiry.expire(time.time(), 10))
    yield handle.id


# Pairs


@situation("paused", "no_consumer", remedy="djjp resume mail")
def paused_and_without_a_consumer(engine: Engine) -> Iterator[UUID]:
    queues.pause("mail")
    yield add.using(queue="mail").run_later(1, 2).id


@situation("no_consumer", "limit", remedy="start_consumer --queues default")
def without_a_consumer_and_over_its_limit(engine: Engine) -> Iterator[UUID]:
    limited.run_later()
    run(engine)
    yield limited.run_later().id


@situation("no_consumer", "scheduled", remedy="start_consumer --queues default")
def without_a_consumer_before_its_time(engine: Engine) -> Iterator[UUID]:
    yield add.using(run_after=timedelta(hours=1)).run_later(1, 2).id


@situation("paused", "parents", remedy="djjp resume default")
def paused_and_after_a_parent_that_waits(engine: Engine) -> Iterator[UUID]:
    consumer()
    queues.pause("default")
    yield chain(add.using(queue="mail").bind(1, 2), add.bind(3)).run_later().id


@situation("paused", "busy", "line", remedy="djjp resume mail")
def paused_while_all_slots_are_busy(engine: Engine) -> Iterator[UUID]:
    consumer(concurrency_limit=1)
    nap.run_later(0)
    run(engine)
    queues.pause("mail")
    yield add.using(queue="mail").run_later(1, 2).id


@situation("limit", "busy", "line", remedy="djjp cancel")
def over_its_limit_while_all_slots_are_busy(engine: Engine) -> Iterator[UUID]:
    consumer(concurrency_limit=1)
    limited.run_later()
    run(engine)
    yield limited.run_later().id


@situation("paused", "rate", remedy="djjp resume default")
def paused_and_over_its_rate(engine: Engine) -> Iterator[UUID]:
    for id in the_rate_is_used_up(engine):
        queues.pause("default")
        yield id


# By hand


@situation("unknown", remedy="djjp delete")
def its_state_is_unknown(engine: Engine) -> Iterator[UUID]:
    consumer()
    id = add.run_later(1, 2).id
    Job.objects.update(state="dormant")
    yield id


@situation("no_consumer", remedy="djjp transfer")
def the_queue_is_being_transferred(engine: Engine) -> Iterator[UUID]:
    Transfer.objects.create(id=new_id(), other="other", incoming=False, started_at=timezone.now())
    yield add.run_later(1, 2).id


def drain_here() -> None:
    """Run all due jobs while the row of the consumer elsewhere stays."""
    with consuming(1):
        eventually(lambda: not Job.objects.filter(state__in=["ready", "running"]).exists())
