"""One run on one database: jobs are enqueued and consumed while consumers die and the database fails."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import Error as DatabaseError
from django.db import connections, transaction

from djjp import chain, expand, get_job, run_many
from djjp.engine import Engine
from djjp.exceptions import QueueUnavailable
from djjp.models import FINISHED, Consumer, Job, State
from djjp.outbox import table
from djjp.outbox.models import OutboxJob
from tests.chaos import jobs
from tests.chaos.crew import Crew
from tests.chaos.ledger import Verdict, judge, watch
from tests.chaos.outages import Trouble
from tests.chaos.trace import Trace
from tests.support.processes import eventually

#: The most seconds until all jobs have ended after the last trouble.
QUIET = 90.0


@dataclass
class Plan:
    """The size of a run.

    Attributes:
        rate: jobs to enqueue in a second.
        kill_every: seconds between two kills; 0 for none.
        trouble_every: seconds between two troubles of the database, and between two frozen or choked
            consumers; 0 for none.
        under_fire: seconds for which both continue after the last enqueue, while jobs are left to run.
    """

    jobs: int
    consumers: int
    rate: float
    kill_every: float
    trouble_every: float
    under_fire: float


def run(engine: Engine, troubles: dict[str, Trouble], plan: Plan) -> Verdict:
    """Run the plan and return the verdict."""
    watch(engine)
    aside = _set_aside()  # in a run on another database
    trace = Trace()
    crew = Crew(plan.consumers, trace, engine.db.alias)
    enqueuer = _Enqueuer(plan)
    over = threading.Event()
    eventually(lambda: _all_registered(engine, plan.consumers), within=QUIET)
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
        # A consumer that is still starting does not handle signals: SIGTERM would end it with another exit code.
        eventually(lambda: _all_registered(engine, plan.consumers), within=QUIET)
        crew.tend()
        took = time.monotonic() - began
        codes = crew.end()
    finally:
        over.set()
        crew.kill_all()
        trace.close()
    verdict = judge(engine, trace, enqueuer.ids, enqueuer.cancelled, enqueuer.refused)
    rows = set(Job.objects.using(engine.db.alias).values_list("pk", flat=True))
    verdict.promise("rolled back, yet there", [*enqueuer.undone & rows])
    verdict.promise("cancelled, yet run", [*enqueuer.cancelled & {*trace.executions()}])
    verdict.promise("odd, not set aside; or reverse", [*enqueuer.odd ^ (_set_aside() - aside)])
    verdict.promise("expanded wrongly", _wrong_pipelines(enqueuer.pipelines))
    verdict.promise("ended without a signal", crew.deserted)
    verdict.promise("ended badly", [code for code in codes if code])
    expanded = {"pipelines": len(enqueuer.pipelines), "items": sum(enqueuer.pipelines.values())}
    verdict.figures = {"seconds": round(took), **crew.done, **verdict.figures, **expanded}
    return verdict


def _wrong_pipelines(pipelines: dict[UUID, int]) -> list[Any]:
    """Return the pipelines whose result is not each item once, in order."""
    joined = {id: get_job(id) for id in pipelines}
    return [
        (id, handle.state, handle.progress)
        for id, handle in joined.items()
        if handle.state != State.SUCCEEDED
        or handle.result != list(range(pipelines[id]))
        or handle.progress != (pipelines[id] + 2, pipelines[id] + 2)
    ]


def _set_aside() -> set[Any]:
    return {row.key for row in table.rows_set_aside("default")}


def _open(engine: Engine) -> bool:
    """Return whether a job has not ended; True while the database is unavailable."""
    if table.waiting("default", None, 1):
        return True
    try:
        return Job.objects.using(engine.db.alias).exclude(state__in=FINISHED).exists()
    except DatabaseError:
        connections[engine.db.alias].close()
        return True


def _all_registered(engine: Engine, count: int) -> bool:
    return Consumer.objects.using(engine.db.alias).count() == count


def _again(over: threading.Event, every: float, work: Callable[[], None]) -> threading.Thread:
    """Repeat the work at irregular times until the run is over."""

    def loop() -> None:
        while every and not over.wait(every * random.uniform(0.6, 1.4)):
            work()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    return thread


def _any(troubles: dict[str, Trouble], crew: Crew, longest: float = 3.0) -> Callable[[], None]:
    """Return a function that causes one of these troubles, and counts it unless its name is blank."""

    def trouble() -> None:
        name = random.choice(sorted(troubles))
        troubles[name](random.uniform(0.3, longest))
        if name.strip():
            crew.done[name] += 1

    return trouble


class _Enqueuer(threading.Thread):
    """Enqueues at a steady rate, also while the database is unavailable, and repeats refused enqueues.

    Attributes:
        ids: the jobs whose enqueue has returned.
        undone: the jobs whose transaction was rolled back.
        cancelled: the jobs that were cancelled in their own transaction.
        odd: rows of the outbox that the queue must refuse.
        pipelines: the enqueued pipelines with an expansion, each with its number of items.
        refused: the number of jobs whose enqueue has raised an error.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(daemon=True)
        self.ids: set[UUID] = set()
        self.undone: set[UUID] = set()
        self.cancelled: set[UUID] = set()
        self.odd: set[UUID] = set()
        self.pipelines: dict[UUID, int] = {}
        self.refused = 0
        self._plan = plan

    def run(self) -> None:
        due = time.monotonic()
        for calls in _chunks(self._plan.jobs):
            if not self.pipelines or random.random() < 0.1:
                self._enqueue_pipeline(random.choice([0, 1, 7, 30, 60]) if self.pipelines else 60)
            if random.random() < 0.3:
                self._enqueue_in_transaction(calls)
            else:
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

    def _enqueue_pipeline(self, count: int) -> None:
        pieces = expand(jobs.piece.bind(seconds=random.choice([0, 0.01])))
        steps = chain(jobs.listing.bind(count), pieces, jobs.gather.bind())
        try:
            with transaction.atomic() if random.random() < 0.5 else nullcontext():
                self.pipelines[steps.run_later().id] = count
        except QueueUnavailable:
            return  # it can be there nevertheless, as a whole

    def _enqueue_in_transaction(self, calls: list[Any]) -> None:
        """Enqueue with the application's data: by the outbox, which no trouble of the queue stops."""
        ids: set[UUID] = set()
        kind = random.choice(["committed", "committed", "undone", "cancelled", "odd"])
        try:
            with transaction.atomic():
                handles = run_many(calls)
                ids = {handle.id for handle in handles}
                if kind == "cancelled":
                    for handle in handles:
                        handle.cancel()
                if kind == "odd":
                    OutboxJob.objects.filter(pk__in=ids).update(
                        job=random.choice(["{}", "no JSON"])
                    )
                if kind == "undone":
                    transaction.set_rollback(True)
        except QueueUnavailable:  # by the cancellation, which rolls all back
            kind = "undone"
        {"undone": self.undone, "odd": self.odd}.get(kind, self.ids).update(ids)
        if kind == "cancelled":
            self.cancelled |= ids


def _chunks(count: int) -> Iterator[list[Any]]:
    """Yield the calls, with a fatal one now and then: each ends a dozen consumers before it has failed."""
    fatal_every = max(300, count // 8)
    while count > 0:
        size = min(count, random.choice([1, 1, 1, 10, 50]))
        yield [_call() for _ in range(size)]
        if count // fatal_every > (count - size) // fatal_every:
            yield [jobs.fatal.bind()]
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
    if kind < 0.67:
        return jobs.reader.bind()
    if kind < 0.68:
        return jobs.large.bind()
    if kind < 0.69:
        return random.choice([jobs.poisoned, jobs.unclaimable]).bind()
    return jobs.quick.bind()
