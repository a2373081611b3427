"""The round trip of one job through a living consumer, which runs no function and leaves nothing."""

from __future__ import annotations

import time
from typing import NamedTuple
from uuid import UUID

from djjp import engine, queues
from djjp.engine import Engine, NewJob
from djjp.ids import new_id
from djjp.jobs import registry
from djjp.management.output import span
from djjp.models import FINISHED, Flag, Job, State
from djjp.monitoring import consumers

#: A queue in which no other job is.
PROBE_QUEUE = "djjp-check"
#: Seconds within which a consumer must have run the job.
WITHIN = 10.0
_POLL_EVERY = 0.002
# A job that collects the results of its parents runs no function: without parents it does nothing.
_FLAGS = Flag.COLLECTS | Flag.UNLISTED
_HIGHEST = 32_767


class Outcome(NamedTuple):
    """How it ended; `fix` is None if all is well."""

    text: str
    fix: str | None


def round_trip(within: float = WITHIN) -> Outcome:
    """Enqueue a job, wait until a consumer has run it, and delete it."""
    queue = _served_queue()
    if queue is None:
        return Outcome(
            "no consumer serves a queue that is not paused",
            "Start one: python manage.py start_consumer",
        )
    name = next(iter(registry.names()), None)
    if name is None:
        return Outcome("no job is registered in this project", "Write one: see docs/tutorial.md")
    now = time.time()
    job = NewJob(
        *(new_id(), name, queue, _HIGHEST, State.READY, None, now, '{"args":[],"kwargs":{}}'),
        flags=_FLAGS,
    )
    started = time.perf_counter()
    try:
        engine.run(lambda engine: _enqueue(engine, job))
        state = _end(job.id, started + within)
    finally:
        _delete(job.id)
    took = time.perf_counter() - started
    if state == State.SUCCEEDED:
        return Outcome(f"a job in {queue} took {span(took)} from its enqueue to its end", None)
    if state == State.READY:
        text = f"no consumer has started a job in {queue} within {span(within)}"
        return Outcome(text, "See what the consumers run: python manage.py djjp consumers")
    return Outcome(f"a job in {queue} is {state} after {span(took)}", "See the consumer's log.")


def _enqueue(engine: Engine, job: NewJob) -> None:
    with engine.db.transaction():
        engine.jobs.enqueue(job)


def _served_queue() -> str | None:
    """Return a queue that a consumer serves and that is not paused: the default one if possible."""
    paused = queues.paused()
    served: list[str] = []
    for consumer in consumers():
        served += ["default", PROBE_QUEUE] if consumer.queues is None else consumer.queues
    names = [name for name in served if "*" not in name and name not in paused]
    return "default" if "default" in names else next(iter(names), None)


def _end(id: UUID, until: float) -> str:
    """Return the state of a job once it has ended, or when the time has passed."""
    while True:
        state = engine.run(lambda engine: _state(engine, id))
        if state in FINISHED or time.perf_counter() >= until:
            return state
        time.sleep(_POLL_EVERY)


def _state(engine: Engine, id: UUID) -> str:
    states = Job.objects.using(engine.db.alias).filter(pk=id).values_list("state", flat=True)
    return next(iter(states), "gone")


def _delete(id: UUID) -> None:
    """Delete the job; a running job is cancelled, and pruned later."""

    def delete(engine: Engine) -> None:
        engine.control.cancel([id], time.time())
        with engine.db.transaction():
            ended = Job.objects.using(engine.db.alias).filter(pk=id, state__in=FINISHED)
            if ended.exists():
                engine.pruning.delete([id])

    engine.run(delete)
