"""Pipelines: the state of a pipeline with its steps, why it does not go on, and which steps a retry runs again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple
from uuid import UUID

from django.db.models import Max, Min

from djjp import engine
from djjp.durations import spelled, to_seconds
from djjp.engine import Engine, Graph, Retried, Step
from djjp.engine.pipelines import last_errors
from djjp.exceptions import JobDoesNotExist
from djjp.models import FINISHED, LIVE, Job, State
from djjp.monitoring.folding import counted
from djjp.outbox import pending

#: The steps of a pipeline that are read at most; of a longer one, its first steps.
MOST_STEPS = 20_000
# The steps that are named as the reason why a pipeline has not succeeded.
_MOST_CULPRITS = 5


class Culprit(NamedTuple):
    """A step that failed, or was cancelled on its own, with its last error; "" and "" without one."""

    step: Step
    exception_class: str
    message: str


class PipelineInfo(NamedTuple):
    """A pipeline as it is now.

    Attributes:
        state: the state of its handle: `running`, `succeeded`, `failed` or `cancelled`.
        graph: its jobs and their edges.
        counts: the number of its steps in each state, the failed ones first.
        is_exact: whether these are all of its steps; otherwise there are more than were read.
        culprits: steps because of which it has not succeeded, or will not, the first ones of them.
        other_culprits: the number of further ones among the steps that were read.
        outbox: the alias of the database in whose outbox it waits; None once it is in the queue.
    """

    id: UUID
    state: State
    graph: Graph
    counts: dict[str, int]
    is_exact: bool
    culprits: list[Culprit]
    other_culprits: int
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    outbox: str | None = None

    @property
    def progress(self) -> tuple[int, int]:
        """The number of its steps that have ended, and the number of all."""
        ended = sum(number for state, number in self.counts.items() if state in FINISHED)
        return ended, sum(self.counts.values())

    @property
    def has_ended(self) -> bool:
        """True if all of its jobs have ended."""
        return self.state in FINISHED

    @property
    def next_step(self) -> Step | None:
        """The step that runs next, while none runs; None if one runs, or all have ended."""
        if self.counts.get(State.RUNNING):
            return None
        for state in (State.READY, State.SCHEDULED, State.BLOCKED):
            for step in self.graph.steps:
                if step.state == state and not step.is_hidden:
                    return step
        return None

    @property
    def sentence(self) -> str:
        """The state, the progress and the failing step, without what its error says."""
        return _sentence(self)


class Rerun(NamedTuple):
    """The steps that a retry runs again, unless others change them meanwhile.

    Attributes:
        again: the steps that have ended and run again.
        on_failure: the jobs that run only if a step fails again.
        waiting: the steps that have not started, and wait for the others again.
    """

    again: list[Step]
    on_failure: list[Step]
    waiting: list[Step]


def pipeline(id: UUID) -> PipelineInfo:
    """Return a pipeline by its id, in a bounded number of statements.

    Raises:
        JobDoesNotExist: neither the queue nor an outbox has it.
        QueueUnavailable: the queue's database does not answer.
    """
    found = engine.run(partial(_in_queue, id=id)) or _in_outbox(id)
    # A relay may have moved it between the two reads.
    found = found or engine.run(partial(_in_queue, id=id))
    if found is None:
        raise JobDoesNotExist(id, "there is no pipeline {}")
    return found


def pipeline_of(job: UUID) -> UUID | None:
    """Return the id of the pipeline to which a job belongs; None if it does not exist, or belongs to none."""
    rows = engine.run(
        lambda engine: list(
            Job.objects.using(engine.db.alias).filter(pk=job).values_list("pipeline", flat=True)
        )
    )
    return rows[0] if rows else None


def rerun_of_pipeline(id: UUID) -> Rerun:
    """Return which steps a retry of a pipeline would run again; none if it runs and none has failed."""
    return engine.run(lambda engine: _rerun(engine, engine.control.would_retry_pipeline(id)))


def rerun_of_jobs(ids: Collection[UUID]) -> Rerun:
    """Return which jobs a retry of these jobs would run again: in a pipeline, also parents and dependents."""
    return engine.run(lambda engine: _rerun(engine, engine.control.would_retry(ids)))


def _rerun(engine: Engine, retried: Retried) -> Rerun:
    ready = engine.graphs.steps(retried.ready)
    blocked = [step for step in engine.graphs.steps(retried.blocked) if not step.is_hidden]
    again = [step for step in blocked if step.state in FINISHED and not step.is_on_failure]
    return Rerun(
        sorted([*ready, *again], key=lambda step: step.id),
        [step for step in blocked if step.is_on_failure],
        [step for step in blocked if step.state in LIVE and not step.is_on_failure],
    )


def _in_queue(engine: Engine, id: UUID) -> PipelineInfo | None:
    graph = engine.graphs.of(id, MOST_STEPS)
    if not graph.steps:
        return None
    state, guilty = _end(engine, id, graph)
    steps = [step for step in graph.steps if step.is_counted]
    failed = [step.id for step in steps if step.state == State.FAILED]
    guilty = guilty or ([] if state == State.SUCCEEDED else failed)
    jobs = Job.objects.using(engine.db.alias).filter(pipeline=id)
    if graph.has_more:  # not all rows of a long one
        jobs = jobs.filter(pk__lte=graph.steps[-1].id)
    times = jobs.aggregate(Min("created_at"), Min("started_at"), Max("finished_at"))
    return PipelineInfo(
        id=id,
        state=state,
        graph=graph,
        counts=counted(steps),
        is_exact=not graph.has_more,
        culprits=_culprits(engine, guilty[:_MOST_CULPRITS]),
        other_culprits=len(guilty[_MOST_CULPRITS:]),
        created_at=times["created_at__min"],
        started_at=times["started_at__min"],
        finished_at=times["finished_at__max"] if state in FINISHED else None,
    )


def _end(engine: Engine, id: UUID, graph: Graph) -> tuple[State, list[UUID]]:
    """Return the state of a pipeline as its handle has it, and the jobs because of which it is that."""
    if any(step.state in LIVE for step in graph.steps) or (
        graph.has_more
        and Job.objects.using(engine.db.alias).filter(pipeline=id, state__in=LIVE).exists()
    ):
        return State.RUNNING, []
    causes = engine.causes.of_pipeline(id)
    state = causes[0].state if causes else State.SUCCEEDED
    return state, [cause.id for cause in causes]


def _culprits(engine: Engine, ids: Sequence[UUID]) -> list[Culprit]:
    errors = last_errors(engine.db.alias, ids)
    steps = sorted(engine.graphs.steps(ids), key=lambda step: ids.index(step.id))
    return [Culprit(step, *errors.get(step.id, ("", ""))) for step in steps]


def _in_outbox(id: UUID) -> PipelineInfo | None:
    if (waiting := pending.locate(id)) is None or waiting.job.pipeline != id:
        return None
    state = State.CANCELLED if waiting.job.state == State.CANCELLED else State.RUNNING
    return PipelineInfo(
        id=id,
        state=state,
        graph=Graph([], [], has_more=False),
        counts={},
        is_exact=True,
        culprits=[],
        other_culprits=0,
        created_at=waiting.job.created_at,
        started_at=None,
        finished_at=None,
        outbox=waiting.alias,
    )


# The sentence


def _sentence(info: PipelineInfo) -> str:
    if info.outbox is not None:
        return f"Waits: its jobs are in the outbox of {info.outbox}, and not in the queue yet."
    ended, total = info.progress
    if not total:
        return f"{_VERBS[info.state]}: it has no steps."
    more = "" if info.is_exact else "+"
    all_steps = f"{total:,}{more} step{'' if total == 1 and not more else 's'}"
    match info.state:
        case State.SUCCEEDED:
            return _succeeded(info, all_steps)
        case State.RUNNING:
            return _running(info, ended, all_steps)
        case _:
            did_not = info.counts.get(State.CANCELLED, 0)
            blamed = _blamed(info)
            lost = f"; {did_not:,} of {all_steps} did not run" if did_not else ""
            done = f"{info.counts.get(State.SUCCEEDED, 0):,} of {all_steps} succeeded"
            return f"{_VERBS[info.state]}: {blamed or done}{lost if blamed else ''}."


_VERBS = {
    State.SUCCEEDED: "Succeeded",
    State.RUNNING: "Runs",
    State.FAILED: "Failed",
    State.CANCELLED: "Cancelled",
}


def _succeeded(info: PipelineInfo, all_steps: str) -> str:
    tolerated = sum(info.counts.get(state, 0) for state in (State.FAILED, State.CANCELLED))
    took = ""
    if info.is_exact and info.started_at is not None and info.finished_at is not None:
        seconds = to_seconds(info.finished_at) - to_seconds(info.started_at)
        took = f" in {spelled(max(0.0, seconds))}"
    if tolerated:
        done = info.counts.get(State.SUCCEEDED, 0)
        return f"Succeeded{took}: {done:,} of {all_steps}; the others failed, and are tolerated."
    return f"Succeeded{took}: all of {all_steps}."


def _running(info: PipelineInfo, ended: int, all_steps: str) -> str:
    total = info.progress[1]
    runs = info.counts.get(State.RUNNING, 0)
    share = f" ({100 * ended // total} %)" if info.is_exact else ""
    now = f"{runs:,} {'runs' if runs == 1 else 'run'} now" if runs else "none runs now"
    blamed = _blamed(info)
    start = "Runs" if runs else "Waits"
    have = "has" if ended == 1 else "have"
    failing = f"; {blamed}" if blamed else ""
    return f"{start}: {ended:,} of {all_steps} {have} ended{share}, {now}{failing}."


def _blamed(info: PipelineInfo) -> str:
    """Return the failing step in words, and the number of others; "" without one."""
    if not info.culprits:
        return ""
    step = info.culprits[0].step
    others = len(info.culprits) - 1 + info.other_culprits
    if step.state == State.FAILED:
        attempts = f" after {step.attempts:,} attempts" if step.attempts > 1 else ""
        text = f"{step.name} failed{attempts}"
    else:
        text = f"{step.name} was cancelled"
    if not others:
        return text
    return f"{text}, and {others:,} other step{'' if others == 1 else 's'} did not succeed"
