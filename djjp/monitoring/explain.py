"""Explain: why one job does not run, or what has become of it; from the rows of the queue alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db.models.functions import Left

from djjp import engine
from djjp.durations import to_seconds
from djjp.engine import Engine
from djjp.engine.line import MOST_LISTED, Listed
from djjp.exceptions import JobDoesNotExist, QueueUnavailable
from djjp.jobs.reading import as_uuid
from djjp.models import FINISHED, Flag, Job, Queue, State
from djjp.monitoring import obstacles, running, shapes
from djjp.monitoring.causes import (
    Cause,
    Surroundings,
    at,
    cause,
    fact,
    shown_reason,
    sorted_by_rank,
)
from djjp.monitoring.consumers import Life, consumers, read
from djjp.monitoring.pipelines import PipelineInfo
from djjp.outbox import pending
from djjp.outbox.pending import Pending
from djjp.served import Servers


class Explanation(NamedTuple):
    """A job with the causes that keep it from running, the worst first; or with what it does, or how it ended."""

    job: Job
    causes: list[Cause]

    @property
    def codes(self) -> list[str]:
        """The codes of the causes."""
        return [cause.code for cause in self.causes]


def explain(id: UUID | str, *, shows_errors: bool = True) -> Explanation:
    """Return why a job does not run: in a bounded number of statements, whatever the queue holds.

    Args:
        shows_errors: whether it can have the messages of errors, which can have arguments in them.

    Raises:
        JobDoesNotExist: neither the queue nor an outbox has it.
        QueueUnavailable: the queue's database does not answer, and no outbox has the job.
    """
    key = as_uuid(id)
    away: QueueUnavailable | None = None

    def of_queue(engine: Engine) -> Explanation | None:
        return _in_queue(engine, key, shows_errors=shows_errors)

    try:
        found = engine.run(of_queue)
    except QueueUnavailable as error:
        found, away = None, error
    if found is not None:
        return found
    if (waiting := pending.locate(key)) is not None:
        alive = away is None and any(each.life is Life.ALIVE for each in consumers())
        if not shows_errors:
            waiting = _without_errors(waiting)
        return Explanation(waiting.job, [_outbox(waiting, alive=alive, away=away)])
    if away is not None:
        raise away
    # A relay may have moved it between the two reads.
    found = engine.run(of_queue)
    if found is None:
        raise JobDoesNotExist(id)
    return found


def explain_pipeline(info: PipelineInfo) -> list[Cause]:
    """Return why a pipeline does not go on, the worst cause first; none if a step runs, or all have ended.

    Raises:
        QueueUnavailable: the queue's database does not answer.
    """
    following = info.next_step
    try:
        return [] if following is None else explain(following.id).causes
    except JobDoesNotExist:  # deleted meanwhile
        return []


async def aexplain(id: UUID | str) -> Explanation:
    """Do `explain` in a coroutine."""
    return await sync_to_async(explain)(id)


def _without_errors(found: Pending) -> Pending:
    """Return a job in an outbox without the text of its problem, which can quote its arguments."""
    if found.row.problem:
        found = found._replace(row=found.row._replace(problem="see manage.py djjp outbox"))
    found.job.reason = shown_reason(found.job.reason, shows_errors=False)
    return found


def _in_queue(engine: Engine, id: UUID, *, shows_errors: bool) -> Explanation | None:
    job = _row(engine, id)
    if job is None:
        return None
    job.reason = shown_reason(job.reason, shows_errors=shows_errors)
    if job.state in FINISHED:
        return Explanation(job, [running.ended(engine, job, shows_errors=shows_errors)])
    above = _above(engine, job)
    around = _surroundings(engine, [job.name] if above is None else [job.name, above.name])
    found = obstacles.of_live(engine, job, around)
    if above is not None:
        found = _with_parents(engine, job, above, around, found)
    return Explanation(job, sorted_by_rank(found))


def _row(engine: Engine, id: UUID) -> Job | None:
    # The beginning of the arguments shows whether they are those of a task.
    rows = Job.objects.using(engine.db.alias).filter(pk=id)
    rows = rows.annotate(arguments_head=Left("arguments", 20))
    return rows.defer("arguments", "result", "input").first()


def _above(engine: Engine, job: Job) -> Job | None:
    """Return the job up the pipeline for which a blocked job waits in the end; the job itself if there is none."""
    if job.state != State.BLOCKED or obstacles.by_hand(job) or not job.waits_for:
        return None
    deepest = engine.line.deepest(job.pk)
    return job if deepest == job.pk else _row(engine, deepest) or job


def _with_parents(
    engine: Engine, job: Job, above: Job, around: Surroundings, found: list[Cause]
) -> list[Cause]:
    """Return the causes of a blocked job with those of its parents; its own queue concerns it later."""
    parents = engine.line.parents(job.pk)
    of_above: list[Cause] = []
    if above is not job and above.state not in FINISHED:
        of_above = sorted_by_rank(obstacles.of_live(engine, above, around, is_parent=True))
    needs_failure = bool(job.flags & Flag.ON_FAILURE)
    cause = _parents(job, parents, above, of_above, needs_failure=needs_failure)
    return [cause, *found]


def _surroundings(engine: Engine, jobs: list[str]) -> Surroundings:
    now = time.time()
    paused = Queue.objects.using(engine.db.alias).values_list("pk", "paused_until")
    found = read(engine, jobs)
    return Surroundings(
        now,
        engine.db.alias,
        found,
        Servers((info.queues, (info, names)) for info, names in found),
        {name: until for name, until in paused if until is None or to_seconds(until) > now},
        engine.consumers.transfer(),
    )


def _parents(
    job: Job,
    waiting: Sequence[Listed],
    above: Job,
    of_above: Sequence[Cause],
    *,
    needs_failure: bool,
) -> Cause:
    """Return the cause of a job that waits for others of its pipeline.

    Args:
        waiting: its parents that have not ended.
        above: the job for which the pipeline waits in the end, and its causes.
        needs_failure: the job runs only if one of them does not succeed.
    """
    facts: dict[str, Any] = {
        "waiting_for": [fact(each, "state") for each in waiting[:MOST_LISTED]],
        "deepest": None
        if not of_above
        else {"id": str(above.pk), "name": above.name, "state": above.state},
        "causes": [{"code": each.code, "sentence": each.sentence} for each in of_above],
    }
    if not waiting:
        text = "it waits for parents that have ended or are gone, so that nothing will call it"
        return cause("parents", text, "to give it up", f"djjp cancel {job.pk}", **facts)
    count = f"{MOST_LISTED:,}+" if len(waiting) > MOST_LISTED else str(len(waiting))
    named = ", ".join(f"{each.name} {each.id} ({each.place})" for each in waiting[:3])
    waits = (
        f"it runs only if one of its parents fails; {count} have not ended"
        if needs_failure
        else (f"it waits for {count} of its parents")
    )
    text = f"{waits}: {named}"
    if not of_above:
        return cause("parents", text, "to see why", f"djjp explain {waiting[0].id}", **facts)
    worst = of_above[0]
    direct = len(waiting) == 1 and waiting[0].id == above.pk
    source = "" if direct else f"; in the end for {above.name} {above.pk}"
    return Cause("parents", f"{text}{source}: {worst.sentence}", worst.remedy, facts)


def _outbox(found: Pending, *, alive: bool, away: QueueUnavailable | None) -> Cause:
    """Return the cause of a job that is in an outbox.

    Args:
        alive: a consumer is alive.
        away: the queue's database does not answer.
    """
    since, id = found.job.created_at, found.row.id
    facts = {
        "alias": found.alias,
        "since": None if since is None else shapes.time(since),
        "problem": found.row.problem,
        "cancelled": found.row.cancelled,
    }
    text = f"it is in the outbox of {found.alias!r}" + (f" since {at(since)}" if since else "")
    if found.row.problem:
        text += f", set aside because the queue refuses it: {found.row.problem}"
        return cause(
            "outbox", text, "to have it relayed again", f"djjp outbox --retry {id}", **facts
        )
    if away is not None:
        text += f", and the queue's database does not answer: {away}"
        return cause("outbox", text, "to see what is wrong", "djjp check", **facts)
    if not alive:
        text += ", and no consumer is alive that would relay it"
        return cause("outbox", text, "to start one", "start_consumer", **facts)
    text += "; a consumer relays it within a second, unless it cannot reach that database"
    return cause("outbox", text, "to see the outboxes", "djjp outbox", **facts)
