"""The command `bench`: the rates of this machine and this database."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple
from uuid import UUID

import click

from djjp import engine
from djjp.engine import Engine, NewJob, Outcome
from djjp.engine.tiles import OF_ALL
from djjp.ids import new_id
from djjp.management.group import Subcommand, answer
from djjp.management.output import echo
from djjp.models import Flag, Job, State, Total, TotalEntry

#: Paused while the bench runs, so that no consumer takes its jobs; and for how long at most.
QUEUE, _PAUSED_FOR = "djjp-bench", 3600.0
_NAME = "djjp.bench"
_CONSUMER = "djjp-bench"
_ARGUMENTS = '{"args":[],"kwargs":{}}'
#: The number of jobs of one turn, and of one statement that enqueues or deletes many.
_TURN, _MANY = 200, 1000


class Rate(NamedTuple):
    """A rate: a number of jobs, and the seconds that they took."""

    what: str
    text: str
    jobs: int
    seconds: float

    @property
    def per_second(self) -> float:
        return self.jobs / self.seconds if self.seconds else 0.0

    def document(self) -> dict[str, object]:
        return {
            "what": self.what,
            "jobs": self.jobs,
            "seconds": self.seconds,
            "per_second": self.per_second,
        }


@click.command(cls=Subcommand)
@click.option(
    "--jobs",
    "number",
    type=click.IntRange(10, 1_000_000),
    default=5000,
    show_default=True,
    help="The number of jobs that are enqueued and drained.",
)
def bench(number: int) -> None:
    """Measure how fast this machine enqueues and drains jobs on this database.

    The jobs run no function, are in a queue of their own that is paused meanwhile, and are deleted at the end. A
    consumer that runs functions beside is slower by their time, and adds its own turns.

    \b
    Example: manage.py djjp bench --jobs 20000
    """
    rates = engine.run(lambda engine: _Bench(engine, number).run())

    def show() -> None:
        for rate in rates:
            echo(f"{rate.text:<40} {rate.per_second:>12,.0f} jobs/s")

    answer(
        lambda: {"database": engine.current().db.alias, "rates": [r.document() for r in rates]},
        show,
    )


class _Bench:
    """One measurement. It keeps the ids of its jobs, to delete them."""

    def __init__(self, engine: Engine, number: int) -> None:
        self._engine = engine
        self._number = number
        self._ids: list[UUID] = []

    def run(self) -> list[Rate]:
        """Measure, and clean up whatever happens."""
        now = time.time()
        with _terminated_like_interrupted():
            self._engine.queues.pause(QUEUE, now, now + _PAUSED_FOR)
            try:
                self._clean()  # what a bench that was killed has left
                return list(self._rates())
            finally:
                self._clean()
                self._engine.queues.resume(QUEUE, now)

    def _rates(self) -> Iterator[Rate]:
        few = max(10, self._number // 10)
        yield _measured("enqueue_one", "enqueue, one by one", few, lambda: self._enqueue_each(few))
        yield _measured(
            *("enqueue_many", f"enqueue, {_MANY:,} at a time", self._number),
            lambda: self._enqueue_many(self._number),
        )
        yield _measured(
            "turn_of_one", "claim and finish, one by one", few, lambda: self._drain(few, 1)
        )
        yield _measured(
            *("drain", f"claim and finish, {_TURN} at a time", self._number),
            lambda: self._drain(self._number, _TURN),
        )

    def _new(self) -> NewJob:
        id = new_id()
        self._ids.append(id)
        now = time.time()
        return NewJob(
            *(id, _NAME, QUEUE, 0, State.READY, None, now, _ARGUMENTS), flags=Flag.UNLISTED
        )

    def _enqueue_each(self, number: int) -> None:
        for _ in range(number):
            self._engine.jobs.enqueue(self._new())

    def _enqueue_many(self, number: int) -> None:
        for start in range(0, number, _MANY):
            self._engine.jobs.enqueue_many([self._new() for _ in range(min(_MANY, number - start))])

    def _drain(self, number: int, at_once: int) -> None:
        """Claim and finish in one transaction, as a turn does: no other process sees the jobs run."""
        jobs = self._engine.jobs
        left = number
        while left > 0:
            with self._engine.db.transaction():
                now = time.time()
                claimed = jobs.claim(_CONSUMER, min(at_once, left), now, queues=[QUEUE])
                ended = time.time()
                jobs.finish(
                    _CONSUMER,
                    [Outcome(job, State.SUCCEEDED, now, ended, "null") for job in claimed],
                )
            if not claimed:
                break
            left -= len(claimed)

    def _clean(self) -> None:
        """Delete the jobs, and what the totals have of them."""
        alias = self._engine.db.alias
        ready = Job.objects.using(alias).filter(queue=QUEUE, state=State.READY)
        left = [*self._ids, *ready.values_list("pk", flat=True)]
        self._ids = []
        for start in range(0, len(left), _MANY):
            with self._engine.db.transaction():
                self._engine.pruning.delete(left[start : start + _MANY])
        mine = Total.objects.using(alias).filter(queue=QUEUE)
        starts = {*mine.values_list("starts_at", flat=True)}
        mine.delete()
        # Those of all queues are made again from the others.
        Total.objects.using(alias).filter(span__in=OF_ALL.values(), starts_at__in=starts).delete()
        TotalEntry.objects.using(alias).filter(figures__contains=f'"{QUEUE}"').delete()


def _measured(what: str, text: str, jobs: int, work: Callable[[], None]) -> Rate:
    started = time.perf_counter()
    work()
    return Rate(what, text, jobs, time.perf_counter() - started)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM too, so that the jobs are deleted."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not on the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
