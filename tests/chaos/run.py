"""One run on one database: jobs are enqueued and consumed while consumers die and the database goes away."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import Error as DatabaseError
from django.db import connections

from djjp import run_many
from djjp.engine import Engine
from djjp.exceptions import QueueUnavailable
from djjp.models import FINISHED, Consumer, Job
from tests.chaos import jobs
from tests.chaos.crew import Crew
from tests.chaos.ledger import Verdict, judge, watch
from tests.chaos.outages import Trouble
from tests.chaos.trace import Trace
from tests.support.processes import eventually

#: Seconds that all may take to end once the last trouble is over.
QUIET = 90.0


@dataclass
class Plan:
    """How much of what.

    Attributes:
        rate: jobs that are enqueued in a second.
        kill_every: seconds between two kills; 0 for none.
        trouble_every: seconds between two troubles of the database, and between two frozen or choked
            consumers; 0 for none.
        under_fire: seconds for which they go on once all is enqueued, if there is still something to run.
    """

    jobs: int
    consumers: int
    rate: float
    kill_every: float
    trouble_every: float
    under_fire: float


def run(engine: Engine, troubles: dict[str, Trouble], plan: Plan) -> Verdict:
    """Run the plan and judge what has come of it."""
    watch(engine)
    trace = Trace()
    crew = Crew(plan.consumers, trace, engine.db.alias)
    enqueuer = _Enqueuer(plan)
    over = threading.Event()
    eventually(lambda: _all_there(engine, plan.consumers), within=QUIET)
    works = [
        _again(over, plan.kill_every, crew.kill),
        _again(over, plan.trouble_every, _any(troubles, crew)),
        _again(over, 2 * plan.trouble_every, _any({"": crew.freeze, " ": crew.choke}, crew, 5.0)),
    ]
    began = time.monotonic()
    try:
        enqueuer.start()
        while enqueuer.is_alive():
            time.sleep(0.2)
            crew.tend()
        until = time.monotonic() + plan.under_fire
        while _open(engine) and time.monotonic() < until:
            crew.tend()
            time.sleep(0.5)
        over.set()
        for work in works:
            work.join()
        until = time.monotonic() + QUIET
        while _open(engine) and time.monotonic() < until:
            crew.tend()
            time.sleep(0.2)
        # A signal ends one at once that is about to start, as it does any process.
        eventually(lambda: _all_there(engine, plan.consumers), within=QUIET)
        crew.tend()
        took = time.monotonic() - began
        codes = crew.end()
    finally:
        over.set()
        crew.kill_all()
        trace.close()
    verdict = judge(engine, trace, enqueuer.ids, enqueuer.refused)
    verdict.promise("ended by themselves", crew.deserted)
    verdict.promise("ended badly", [code for code in codes if code])
    verdict.figures = {"seconds": round(took), **crew.done, **verdict.figures}
    return verdict


def _open(engine: Engine) -> bool:
    """Whether a job has not ended; True while nobody can tell."""
    try:
        return Job.objects.using(engine.db.alias).exclude(state__in=FINISHED).exists()
    except DatabaseError:
        connections[engine.db.alias].close()
        return True


def _all_there(engine: Engine, count: int) -> bool:
    return Consumer.objects.using(engine.db.alias).count() == count


def _again(over: threading.Event, every: float, work: Callable[[], None]) -> threading.Thread:
    """Do this again and again, at irregular times, until it is over."""

    def loop() -> None:
        while every and not over.wait(every * random.uniform(0.6, 1.4)):
            work()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    return thread


def _any(troubles: dict[str, Trouble], crew: Crew, longest: float = 3.0) -> Callable[[], None]:
    """One of these troubles, for a while; those that have a name of their own are counted here."""

    def trouble() -> None:
        name = random.choice(sorted(troubles))
        troubles[name](random.uniform(0.3, longest))
        if name.strip():
            crew.done[name] += 1

    return trouble


class _Enqueuer(threading.Thread):
    """Enqueues at a steady rate, also while the database is away; what was refused it tries again.

    Attributes:
        ids: the jobs whose enqueue has returned.
        refused: how many jobs were in those that have not.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(daemon=True)
        self.ids: set[UUID] = set()
        self.refused = 0
        self._plan = plan

    def run(self) -> None:
        due = time.monotonic()
        for calls in _chunks(self._plan.jobs):
            while not self._enqueue(calls):
                time.sleep(0.2)
            due = max(due, time.monotonic() - 5) + len(calls) / self._plan.rate
            time.sleep(max(0.0, due - time.monotonic()))
        connections.close_all()

    def _enqueue(self, calls: list[Any]) -> bool:
        try:
            handles = run_many(calls) if len(calls) > 1 else [calls[0].run_later()]
        except QueueUnavailable:
            self.refused += len(calls)
            return False
        self.ids.update(handle.id for handle in handles)
        return True


def _chunks(count: int) -> Iterator[list[Any]]:
    while count > 0:
        size = min(count, random.choice([1, 1, 1, 10, 50]))
        yield [_call() for _ in range(size)]
        count -= size


def _call() -> Any:
    kind = random.random()
    if kind < 0.005:
        return jobs.slow.bind(random.uniform(1, 3))
    if kind < 0.4:
        return jobs.slow.bind(random.uniform(0.002, 0.2))
    if kind < 0.5:
        return jobs.once.bind(random.uniform(0, 0.05))
    if kind < 0.55:
        return jobs.flaky.bind(random.choice([1, 2]))
    if kind < 0.6:
        return jobs.hopeless.bind()
    if kind < 0.65:
        return jobs.parent.bind()
    return jobs.quick.bind()
