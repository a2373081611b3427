"""The handles of pipelines, and `get_job()`: the handle of the job or pipeline that has an id."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db.models import Count, F, Max, Min, QuerySet

from djjp import call_options, engine
from djjp.engine import Engine
from djjp.exceptions import JobCancelled, JobDoesNotExist, JobFailed
from djjp.jobs.handles import JobHandle, find_job
from djjp.jobs.reading import as_uuid
from djjp.models import FINISHED, LIVE, Attempt, Flag, Job, State
from djjp.outbox import pending


class PipelineHandle(JobHandle):
    """A pipeline that ends with one step, whose result is the pipeline's."""

    __slots__ = ("_steps",)

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
    def state(self) -> State:
        """The pipeline's state: one of `running`, `succeeded`, `failed` and `cancelled`.

        It is `running` while a job of it has not ended, an `on_failure` job included; `failed` when a step has
        failed for good, and no group or expansion has passed that on; `cancelled` when a step was cancelled.
        """
        return super().state

    @property
    def progress(self) -> tuple[int, int]:
        """The number of its steps that have ended, in whatever way, and the number of all; read anew each time.

        An `expand()` counts as one step until it has become its jobs, and as these from then on.
        """
        counts = engine.run(lambda engine: _counts(engine, self.id))
        return sum(counts[state] for state in FINISHED), counts.total() or len(self._steps or ())

    @property
    def tags(self) -> list[str]:
        """The tags of its jobs, each once, in alphabetical order; read anew each time."""
        texts = engine.run(lambda engine: _options(engine, self.id))
        return sorted(call_options.united(*map(call_options.tags_of, texts)))

    @property
    def steps(self) -> list[JobHandle]:
        """The handles of its steps, in the order in which it was built; read anew each time."""
        loaded = engine.run(lambda engine: _load_steps(engine, self.id))
        # Before its transaction has committed only this handle has them.
        self._steps = loaded or self._steps
        return [JobHandle(id, state) for id, state in self._steps or ()]

    @property
    def errors(self) -> list[Attempt]:
        """The failed attempts of the steps because of which it has failed, oldest first."""
        if self._errors is None:
            self._errors = engine.run(lambda engine: _load_errors(engine, self.id))
        return list(self._errors)

    def cancel(self) -> None:
        """Stop all of its jobs that have not ended, as `JobHandle.cancel()` stops one; no `on_failure` runs.

        Raises:
            JobDoesNotExist: its rows are gone.
            QueueUnavailable: the queue's database does not answer.
        """
        verb = lambda engine: engine.control.cancel_pipeline(self.id, time.time())  # noqa: E731  (of this call alone)
        pending.cancel(self.id, lambda: engine.run(verb))
        self._refresh_after_write()

    def retry(self) -> bool:
        """Run the failed and cancelled jobs again, and then their dependents.

        If all have succeeded, the last jobs run again. Jobs that have not ended are not changed.

        Returns:
            True if a job was retried; False, with a line in the log, if it runs and none has failed.

        Raises:
            JobDoesNotExist: its rows are gone.
            QueueUnavailable: the queue's database does not answer.
        """
        return self._retried(engine.run(lambda engine: engine.control.retry_pipeline(self.id)))

    def _refreshed(self) -> Job:
        row = super()._refreshed()
        if row.state in LIVE:  # also where only an outbox has it
            row.state = self._state = State.RUNNING
        return row

    def _load(self, engine: Engine) -> Job | None:
        """Return a row that stands for all of its jobs."""
        row = self._load_summary(engine)
        if row is None or row.state in LIVE:
            return row
        if _has_live(engine, self.id):
            row.state = State.RUNNING
        elif causes := engine.causes.of_pipeline(self.id):
            row.state, row.reason = causes[0].state, causes[0].reason
        return row

    def _load_summary(self, engine: Engine) -> Job | None:
        """Return the row, with the state that it has if all jobs have ended and none is missing."""
        return super()._load(engine)

    def _end(self) -> Any:
        if self._state == State.SUCCEEDED:
            return self.result
        causes = engine.run(lambda engine: engine.causes.of_pipeline(self.id))
        id = causes[0].id if causes else self.id
        if self._state == State.CANCELLED:
            raise JobCancelled(id, self.reason)
        last = [each for each in self.errors if each.job_id == id][-1:] or [Attempt()]
        raise JobFailed(id, last[0].exception_class, last[0].message, last[0].traceback)


class GroupHandle(PipelineHandle):
    """A pipeline that ends with a group: its result is the list of the last steps' results, in order."""

    __slots__ = ()

    def _load_summary(self, engine: Engine) -> Job | None:
        jobs = Job.objects.using(engine.db.alias).filter(pipeline=self.id)
        first = jobs.order_by("pk").values("created_at").first()
        if first is None:
            return None
        row = Job(id=self.id, pipeline=self.id, state=State.RUNNING, **first)
        if not _has_live(engine, self.id):
            row.state = State.SUCCEEDED
            row.result = engine.inputs.results(self.id)
            times = jobs.aggregate(Min("started_at"), Max("finished_at"))
            row.started_at, row.finished_at = times["started_at__min"], times["finished_at__max"]
        return row


def get_job(id: UUID | str) -> JobHandle:
    """Return the handle of what has this id, or the id's text: a job, or a pipeline.

    The id of a pipeline is that of its last job, or one of its own if it ends with a group. The handle is a
    `PipelineHandle` or a `GroupHandle` then.

    Raises:
        JobDoesNotExist: neither a job nor a pipeline has this id.
        QueueUnavailable: the queue's database does not answer.
    """
    try:
        handle = find_job(id)
    except JobDoesNotExist:
        # A pipeline that ends with a group has an id of its own.
        handle = GroupHandle(as_uuid(id))
    else:
        row = handle._read()  # noqa: SLF001  (the row that `find_job` has just read)
        if row.pipeline != handle.id:
            return handle
        # An outbox has the first job in place of one with the id of a group.
        handle = (PipelineHandle if row.pk == handle.id else GroupHandle)(handle.id)
    handle.refresh()
    return handle


async def aget_job(id: UUID | str) -> JobHandle:
    """`get_job` for coroutines."""
    return await sync_to_async(get_job)(id)


def get_pipeline(id: UUID | str) -> PipelineHandle:
    """Return the handle of a pipeline, by its own id or by the id of one of its jobs.

    It is a `GroupHandle` if the pipeline ends with a group: its result is then the list of the last steps'
    results. Otherwise it is a plain `PipelineHandle`, whose result is that of the one last step.

    Raises:
        JobDoesNotExist: there is no such pipeline or job, or the job is in no pipeline.
        QueueUnavailable: the queue's database does not answer.
    """
    handle = get_job(id)
    if not isinstance(handle, PipelineHandle):
        pipeline = handle._read().pipeline  # noqa: SLF001  (of a base class)
        handle = handle if pipeline is None else get_job(pipeline)
    if not isinstance(handle, PipelineHandle):
        raise JobDoesNotExist(id, "the job {} is in no pipeline")
    return handle


async def aget_pipeline(id: UUID | str) -> PipelineHandle:
    """`get_pipeline` for coroutines."""
    return await sync_to_async(get_pipeline)(id)


def _steps(engine: Engine, pipeline: UUID) -> QuerySet[Job]:
    """Return the jobs of a pipeline without its `on_failure` jobs and those that only collect."""
    jobs = Job.objects.using(engine.db.alias).filter(pipeline=pipeline)
    others = F("flags").bitand(Flag.ON_FAILURE | Flag.UNLISTED)
    return jobs.alias(others=others).filter(others=0)


def _has_live(engine: Engine, pipeline: UUID) -> bool:
    jobs = Job.objects.using(engine.db.alias).filter(pipeline=pipeline, state__in=LIVE)
    # From the end, where the jobs are that run last.
    return jobs.order_by("-pk").values("pk").first() is not None


def _options(engine: Engine, pipeline: UUID) -> list[str | None]:
    jobs = Job.objects.using(engine.db.alias).filter(pipeline=pipeline, options__isnull=False)
    return list(jobs.order_by().values_list("options", flat=True).distinct())


def _counts(engine: Engine, pipeline: UUID) -> Counter[str]:
    return Counter(
        dict(_steps(engine, pipeline).order_by().values_list("state").annotate(Count("pk")))
    )


def _load_steps(engine: Engine, pipeline: UUID) -> list[tuple[UUID, State]]:
    rows = _steps(engine, pipeline).order_by("pk").values_list("pk", "state")
    return [(id, State(state)) for id, state in rows]


def _load_errors(engine: Engine, pipeline: UUID) -> list[Attempt]:
    causes = engine.causes.of_pipeline(pipeline)
    failed = [cause.id for cause in causes if cause.state == State.FAILED]
    found: list[Attempt] = []
    for start in range(0, len(failed), 500):
        attempts = Attempt.objects.using(engine.db.alias)
        found += attempts.filter(job_id__in=failed[start : start + 500])
    return sorted(found, key=lambda attempt: attempt.pk)
