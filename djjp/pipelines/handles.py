"""The handles of pipelines: how far one has come, its result, and how it is stopped and taken up again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db.models import Count, F, QuerySet

from djjp import engine
from djjp.engine import Engine
from djjp.exceptions import JobDoesNotExist
from djjp.jobs.handles import JobHandle, get_job
from djjp.models import Attempt, Flag, Job, State
from djjp.outbox import cancelling
from djjp.outbox import lookup as outbox

# What a group is in, by what its jobs are in: the first that one of them is in. It has failed as soon as
# it can't succeed any more.
_FIRST = (State.FAILED, State.CANCELLED, State.RUNNING, State.READY, State.SCHEDULED, State.BLOCKED)


class PipelineHandle(JobHandle):
    """A pipeline with one last job, whose handle this is too: state, result and `join()` are that job's."""

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
        """How many of its jobs have succeeded, and how many there are; read anew each time."""
        counts = engine.run(lambda engine: _counts(engine, self.id))
        return counts[State.SUCCEEDED], counts.total() or len(self._steps or ())

    @property
    def steps(self) -> list[JobHandle]:
        """The handles of its jobs, in the order in which they were put together; read anew each time."""
        loaded = engine.run(lambda engine: _load_steps(engine, self.id))
        # Before its transaction has committed only the enqueuer knows them.
        self._steps = loaded or self._steps
        return [JobHandle(id, state) for id, state in self._steps or ()]

    def cancel(self) -> None:
        """Stop all of its jobs that have not ended, as `JobHandle.cancel()` stops one; no `on_failure` runs."""
        if not engine.run(lambda engine: engine.control.cancel_pipeline(self.id, time.time())):
            cancelling.cancel(self.id)
        self.refresh()

    def retry(self) -> None:
        """Run again what has failed or was cancelled, and then what waits for it.

        When all has succeeded, its last jobs run again. Jobs that have not ended are left alone.
        """
        engine.run(lambda engine: engine.control.retry_pipeline(self.id))
        self.refresh()


class GroupHandle(PipelineHandle):
    """A pipeline that ends with a group: its result is the list of the last jobs' results, in order."""

    @property
    def errors(self) -> list[Attempt]:
        """The failed attempts of those of its jobs that have failed, oldest first."""
        if self._errors is None:
            self._errors = engine.run(lambda engine: _load_errors(engine, self.id))
        return list(self._errors)

    def _refreshed(self) -> Job:
        """A row that stands for all of its jobs."""
        row = engine.run(lambda engine: _summary(engine, self.id)) or outbox.find(self.id)
        # It may have been relayed between the two looks.
        row = row or engine.run(lambda engine: _summary(engine, self.id))
        if row is None:
            raise JobDoesNotExist(self.id)
        self._row, self._state, self._errors = row, State(row.state), None
        return row


def get_pipeline(id: UUID | str) -> PipelineHandle:
    """The handle of a pipeline, by its own id or by that of one of its jobs.

    Raises:
        JobDoesNotExist: there is no such pipeline or job, or the job is in no pipeline.
    """
    try:
        pipeline = get_job(id)._read().pipeline  # noqa: SLF001  (a handle's row)
    except JobDoesNotExist:
        try:
            pipeline = id if isinstance(id, UUID) else UUID(id)
        except (ValueError, AttributeError, TypeError):
            raise JobDoesNotExist(id) from None
    if pipeline is None:
        raise JobDoesNotExist(id)
    single = engine.run(lambda engine: _is_job(engine, pipeline)) or _is_single(pipeline)
    handle = PipelineHandle(pipeline) if single else GroupHandle(pipeline)
    handle.refresh()
    return handle


async def aget_pipeline(id: UUID | str) -> PipelineHandle:
    """`get_pipeline` for coroutines."""
    return await sync_to_async(get_pipeline)(id)


def _is_job(engine: Engine, id: UUID) -> bool:
    return Job.objects.using(engine.db.alias).filter(pk=id).exists()


def _is_single(id: UUID) -> bool:
    """Whether what waits in an outbox under this id ends with one job."""
    row = outbox.find(id)
    return row is not None and row.pk == id


def _jobs(engine: Engine, pipeline: UUID) -> QuerySet[Job]:
    """The jobs of a pipeline but for those that run on failure."""
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
    row.state = next((state for state in _FIRST if counts[state]), State.SUCCEEDED)
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
