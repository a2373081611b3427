"""Faults: one way to bring about each kind of incident, and to end it.

Each fault works on both databases, by rows alone or by what a consumer reports, so that a test can show it through
any interface.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Any, NamedTuple, cast

from djjp.consumer import rescue
from djjp.consumer.observations import Observations
from djjp.consumer.pool import Pool
from djjp.consumer.pool.loop_watchdog import Blocked
from djjp.durations import to_datetime
from djjp.engine import Engine, Listener
from djjp.engine.incidents import Found
from djjp.ids import new_id
from djjp.models import Attempt, Depth, Job, Schedule, State, Total
from djjp.monitoring.incidents import KINDS
from djjp.outbox.models import OutboxJob
from djjp.outbox.sweeper import Sweeper
from tests.project.shop.jobs import echo
from tests.support import factories
from tests.support.engine_calls import register_consumer
from tests.support.factories import new_job
from tests.support.schedules import by_hand

CONSUMER = "host:7:a"


class Fault(NamedTuple):
    """A fault, and the subject of its incident.

    Attributes:
        cause: brings it about.
        end: ends it, where more is needed than time.
        reports: returns what a consumer reports of itself while the fault lasts.
        lasts: the seconds after its end until no search finds it.
        needs_consumer: whether only a live consumer can notice it.
    """

    kind: str
    subject: str
    cause: Callable[[Engine], object] = lambda engine: None
    end: Callable[[Engine], object] = lambda engine: None
    reports: Callable[[Engine], Sequence[Found]] = lambda engine: []
    lasts: float = 0.0
    needs_consumer: bool = False


def consumer_row(
    queues: Iterable[str] | None = None, names: Iterable[str] = (echo.name,), **given: Any
) -> None:
    """Write the row of a consumer that sends heartbeats."""
    served = None if queues is None else json.dumps([*queues])
    own: dict[str, Any] = {
        "host": "host",
        "pid": 7,
        "queues": served,
        "names": json.dumps([*names]),
    }
    factories.consumer_row(CONSUMER, **own | given)


def ready_job(engine: Engine, seconds: float, **given: Any) -> None:
    """Enqueue a job that has been ready for some seconds."""
    engine.jobs.enqueue(
        new_job(**{"name": echo.name, "created_at": time.time() - seconds, **given})
    )


def running_job(engine: Engine, name: str) -> None:
    """Write a job that the consumer runs."""
    ready_job(engine, 1, name=name)
    with engine.db.transaction():
        engine.jobs.claim(CONSUMER, 1, time.time())


def total(**figures: Any) -> None:
    """Write a total of the present minute."""
    key = {"span": "minute", "starts_at": int(time.time()) // 60 * 60}
    Total(**key | {"queue": "default", "name": "shop.mail"} | figures).save()


def depth_samples(counts: Iterable[int], queue: str = "mail") -> None:
    """Write the depths of a queue in the last minutes, the last one now."""
    counts, minute = [*counts], int(time.time()) // 60 * 60
    for back, count in enumerate(reversed(counts)):
        at = minute - 60 * back
        Depth.objects.bulk_create(
            [Depth(queue="", minute=at), Depth(queue=queue, minute=at, ready=count)],
            ignore_conflicts=True,
        )


def _failures(engine: Engine) -> None:
    """Write what a consumer writes of a name most of whose jobs fail."""
    total(failed=8, succeeded=4)
    ready_job(engine, 60, name="shop.mail")
    now = to_datetime(time.time())
    Job.objects.update(state=State.FAILED, finished_at=now)
    failure = {"consumer": CONSUMER, "exception_class": "builtins.ValueError", "message": "no"}
    times = {"started_at": now, "finished_at": now}
    Attempt.objects.create(job=Job.objects.get(), number=1, **failure, **times)


class _Listener:
    def unheard(self) -> str | None:
        return "no notifications of PostgreSQL arrive"


class _Pool:
    def __init__(self, *blocked: Blocked) -> None:
        self.blocked = deque(blocked)


def observe(
    engine: Engine, *blocked: Blocked, listener: object = None, clocks: bool = True
) -> list[Found]:
    """Return what a consumer notices with these reports of its watchdog and this listener."""
    observations = Observations(
        engine,
        cast("Pool", _Pool(*blocked)),
        Sweeper(engine_call, []),
        lambda: cast("Listener | None", listener),
    )
    if not clocks:
        observations._compare_at = inf
    return observations.take(CONSUMER)


def engine_call(verb: Callable[[Engine], Any]) -> Any:
    raise AssertionError("nothing is swept")


def _skewed(engine: Engine) -> list[Found]:
    """Report as a consumer whose clock is 10 s behind that of the queue's database."""
    now = engine.db.clock
    engine.db.clock = lambda: time.time() + 10  # type: ignore[method-assign]  # put back below
    try:
        return observe(engine)
    finally:
        engine.db.clock = now  # type: ignore[method-assign]


def _lose_consumer(engine: Engine) -> None:
    lost = register_consumer(engine, "host:8:b", time.time())
    ready_job(engine, 1)
    with engine.db.transaction():
        engine.jobs.claim(lost.name, 1, time.time())
    assert rescue.rescue(engine, lost).jobs == 1


def _outbox_row(engine: Engine) -> None:
    OutboxJob.objects.create(id=new_id(), job="{}", created_at=to_datetime(time.time() - 60))


FAULTS = [
    Fault(
        "no_consumer",
        "mail",
        cause=lambda engine: ready_job(engine, 60, queue="mail"),
        end=lambda engine: consumer_row(["mail"]),
    ),
    Fault(
        "consumer_lost",
        "host",
        cause=_lose_consumer,
        lasts=240,
        needs_consumer=True,
    ),
    Fault(
        "failing",
        "shop.mail",
        cause=_failures,
        lasts=360,
    ),
    Fault(
        "wait",
        "default",
        cause=lambda engine: ready_job(engine, 400),
        end=lambda engine: engine.jobs.claim(CONSUMER, 1, time.time()),
    ),
    Fault(
        "backlog",
        "mail",
        cause=lambda engine: depth_samples([100, 120, 180, 200, 300, 400]),
        lasts=180,
    ),
    Fault(
        "outbox_behind",
        "default",
        cause=_outbox_row,
        end=lambda engine: OutboxJob.objects.all().delete(),
        reports=lambda engine: [
            Found("outbox_behind", "default", {"wait": 60.0, "consumers": True})
            for _ in OutboxJob.objects.all()
        ],
    ),
    Fault(
        "schedule_broken",
        "gone",
        cause=lambda engine: by_hand(
            "long.gone", time.time(), name="gone", cron="0 4 * * *", tz="UTC"
        ),
        end=lambda engine: Schedule.objects.update(enabled=False),
    ),
    Fault(
        "late_results",
        "shop.mail",
        cause=lambda engine: total(late=3),
        lasts=360,
    ),
    Fault(
        "loop_blocked",
        "shop.crawl",
        cause=lambda engine: running_job(engine, "shop.crawl"),
        reports=lambda engine: observe(
            engine,
            Blocked("shop.crawl", 0.11, "shop/jobs.py:7", again=False),
            Blocked("shop.crawl", 1.2, "shop/jobs.py:9", again=True),
            clocks=False,
        ),
        lasts=240,
        needs_consumer=True,
    ),
    Fault("clock_skew", "host", reports=_skewed, needs_consumer=True),
    Fault(
        "unheard",
        "host",
        reports=lambda engine: observe(engine, listener=_Listener(), clocks=False),
        needs_consumer=True,
    ),
]

assert [fault.kind for fault in FAULTS] == [*KINDS]
