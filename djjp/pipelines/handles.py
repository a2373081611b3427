"""The handles of pipelines: their progress, steps and results, and their cancel and retry."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db.models import Count, F, QuerySet

from djjp import engine
from djjp.engine import Engine
from djjp.exceptions import JobDoesNotExist
from djjp.jobs.handles import JobHandle, as_uuid, get_job
from djjp.models import Attempt, Flag, Job, State
from djjp.outbox import pending

# The state of a group is the first of these that one of its jobs is in: it has failed as soon as it cannot
# succeed any more.
_PRECEDENCE = (
    State.FAILED,
    State.CANCELLED,
    State.RUNNING,
    State.READY,
    State.SCHEDULED,
    State.BLOCKED,
)


class PipelineHandle(JobHandle):
    """A pipeline with one last job, whose state, result and `join()` are the pipeline's."""

    def __init__(
        self,
        id: UUID,
        state: State | None = None,
        steps: Sequence[tuple[UUID, State]] | None = None,
    ) -> None:
        super().__init__(id, state)
        self._steps = steps

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self._state or 'unread'}>"

    @property
    def progress(self) -> tuple[int, int]:
        """The number of its jobs that have succeeded, and the number of all; read anew each time."""
        counts = engine.run(lambda engine: _counts(engine, self.id))
        return counts[State.SUCCEEDED], counts.total() or len(self._steps or ())

    @property
    def steps(self) -> list[JobHandle]:
        """The handles of its jobs, in the order in which it was built; read anew each time."""
        loaded = engine.run(lambda engine: _load_steps(engine, self.id))
        # Before its transaction has committed only this handle has them.
        self._steps = loaded or self._steps
        return [JobHandle(id, state) for id, state in self._steps or ()]

    def cancel(self) -> None:
        """Stop all of its jobs that have not ended, as `JobHandle.cancel()` stops one; no `on_failure` runs.

        Raises:
            JobDoesNotExist: its rows are gone.
            QueueUnavailable: the queue's database does not answer.
        """
        if not engine.run(lambda engine: engine.control.cancel_pipeline(self.id, time.time())):
            pending.cancel(self.id)
        self.refresh()

    def retry(self) -> None:
        """Run the failed and cancelled jobs again, and then their dependents.

        If all have succeeded, the last jobs run again. Jobs that have not ended are left alone.

        Raises:
            JobDoesNotExist: its rows are gone.
            QueueUnavailable: the queue's database does not answer.
        """
        engine.run(lambda engine: engine.control.retry_pipeline(self.id))
        self.refresh()


class GroupHandle(PipelineHandle):
    """A pipeline that ends with a group: its result is the list of the last jobs' results, in order."""

    @property
    def errors(self) -> list[Attempt]:
        """The failed attempts of its failed jobs, oldest first, as `JobHandle.errors` has those of one job."""
        if self._errors is None:
            self._errors = engine.run(lambda engine: _load_errors(engine, self.id))
        return list(self._errors)

    def _load(self, engine: Engine) -> Job | None:
        """Return a row that stands for all of its jobs."""
        return _summary(engine, self.id)


def get_pipeline(id: UUID | str) -> PipelineHandle:
    """Return the handle of a pipeline, by its own id or by the id of one of its jobs.

    It is a `GroupHandle` if the pipeline ends with a group: its result is then the list of the last jobs'
    results. Otherwise it is a plain `PipelineHandle`, whose result is that of the one last job.

    Raises:
        JobDoesNotExist: there is no such pipeline or job, or the job is in no pipeline.
        QueueUnavailable: the queue's database does not answer.
    """
    pipeline: UUID | None = as_uuid(id)
    with suppress(JobDoesNotExist):  # the id of a pipeline that ends with a group is no job's
        pipeline = get_job(id)._read().pipeline  # noqa: SLF001  (the row that `get_job` has just read)
    if pipeline is None:
        raise JobDoesNotExist(id)
    single = engine.run(partial(_is_job, id=pipeline)) or _is_single(pipeline)
    handle = PipelineHandle(pipeline) if single else GroupHandle(pipeline)
    handle.refresh()
    return handle


async def aget_pipeline(id: UUID | str) -> PipelineHandle:
    """`get_pipeline` for coroutines."""
    return await sync_to_async(get_pipeline)(id)


def _is_job(engine: Engine, id: UUID) -> bool:
    return Job.objects.using(engine.db.alias).filter(pk=id).exists()


def _is_single(id: UUID) -> bool:
    """Return whether the pipeline that an outbox holds under this id ends with one job."""
    row = pending.find(id)
    return row is not None and row.pk == id


def _jobs(engine: Engine, pipeline: UUID) -> QuerySet[Job]:
    """Return the jobs of a pipeline without its `on_failure` jobs."""
    jobs = Job.objects.using(engine.db.alias).filter(pipeline=pipeline)
    return jobs.alias(handler=F("flags").bitand(Flag.ON_FAILURE)).filter(handler=0)


def _counts(engine: Engine, pipeline: UUID) -> Counter[str]:
    return Counter(
        dict(_jobs(engine, pipeline).order_by().values_list("state").annotate(Count("pk")))
    )


def _load_steps(engine: Engine, pipeline: UUID) -> list[tuple[UUID, State]]:
    rows = _jobs(engine, pipeline).order_by("pk").values_list("pk", "state")
    return [(id, State(state)) for id, state in rows]


def _summary(engine: Engine, pipeline: UUID) -> Job | None:
    counts = _counts(engine, pipeline)
    if not counts:
        return None
    row = Job(id=pipeline, pipeline=pipeline)
    row.state = next((state for state in _PRECEDENCE if counts[state]), State.SUCCEEDED)
    if row.state == State.SUCCEEDED:
        row.result = engine.pipelines.results(pipeline)
    elif counts[State.SUCCEEDED] and row.state not in (State.FAILED, State.CANCELLED):
        row.state = State.RUNNING
    elif row.state == State.CANCELLED:
        cancelled = _jobs(engine, pipeline).filter(state=State.CANCELLED).order_by("finished_at")
        row.reason = cancelled.values_list("reason", flat=True).first()
    return row


def _load_errors(engine: Engine, pipeline: UUID) -> list[Attempt]:
    failed = Attempt.objects.using(engine.db.alias).filter(
        job__pipeline=pipeline, job__state=State.FAILED
    )
    return list(failed.order_by("pk"))
