"""Pipelines: jobs that wait for one another, built by `chain` and `group` and enqueued as one.

A pipeline is validated before anything is written. A step behind others gets their result as its first
argument, a list of results after a group; the first steps get no input.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from asgiref.sync import sync_to_async

from djjp import bounds
from djjp.engine import NewPipeline
from djjp.engine.result_paths import tolerates
from djjp.jobs import BoundJob, RegisteredJob
from djjp.jobs.enqueue import aenqueue, enqueue
from djjp.jobs.hints import OF_CALL, Hints, to_bind
from djjp.jobs.pipeline_handles import GroupHandle, PipelineHandle
from djjp.models import Flag, State
from djjp.pipelines.layout import End, Expansion, Layout, needed, require_no_unique_key, tolerant

__all__ = ["Expansion", "Pipeline", "Step", "chain", "expand", "group"]

#: The limit on the edges between two consecutive steps: each member of a group waits for each member of
#: the group before it.
MAX_EDGES = 100_000


class Pipeline(Hints, ABC):
    """Bound jobs in an order, not enqueued yet, as `chain()` and `group()` return them.

    Attributes:
        first: the bound jobs that wait for no other job of it.
        width: the number of its last jobs.
    """

    first: tuple[BoundJob, ...]
    width: int

    _words = OF_CALL

    def __init__(self, steps: Sequence[Step], on_failure: BoundJob | None) -> None:
        kind = type(self).__name__.lower().strip("_")
        if not steps:
            raise ValueError(f"a {kind} needs at least one step")
        for step in steps:
            _require_step(kind, step)
        if on_failure is not None:
            if not isinstance(on_failure, BoundJob):
                raise TypeError(f"on_failure is {on_failure!r}; it must be {to_bind(on_failure)}")
            on_failure.validate(has_parents=True)
        self.steps = tuple(steps)
        self.on_failure = on_failure

    def __repr__(self) -> str:
        kind, count = type(self).__name__.lower().strip("_"), len(self.steps)
        return f"<{kind} of {count} step{'' if count == 1 else 's'}>"

    def run_later(self) -> PipelineHandle:
        """Enqueue all jobs, at once and whole, and return the pipeline's handle.

        Raises:
            TypeError: the arguments of a first step do not fit its function.
            ValueError: its jobs name different databases, or one has a unique key.
            QueueUnavailable: the queue's database does not answer, and there is no outbox for the jobs.
        """
        pipeline, handle, database = self._build()
        enqueue(pipeline, database)
        return handle

    async def arun_later(self) -> PipelineHandle:
        """`run_later` for coroutines."""
        pipeline, handle, database = await sync_to_async(self._build)()
        await aenqueue(pipeline, database)
        return handle

    def _build(self) -> tuple[NewPipeline, PipelineHandle, str | None]:
        layout = Layout()
        self.add_to(layout, [])
        pipeline = layout.pipeline()
        bounds.require_pipeline([job.arguments for job in pipeline.jobs], len(pipeline.edges))
        none = Flag.ON_FAILURE | Flag.UNLISTED
        steps = [(job.id, job.state) for job in pipeline.jobs if not job.flags & none]
        kind = GroupHandle if layout.ends_with_group else PipelineHandle
        return pipeline, kind(pipeline.id, State.RUNNING, steps), layout.database()

    def add_to(self, layout: Layout, parents: list[End]) -> list[End]:
        """Add the rows of all steps behind their parents; return the last jobs."""
        ends = self._add_steps(layout, parents)
        layout.ends = ends
        if self.on_failure is not None:
            # A failure that the last step tolerates is none of the whole.
            layout.add_on_failure(
                self.on_failure, [e for e in ends if not tolerates(e.result_path)]
            )
        return ends

    @abstractmethod
    def _add_steps(self, layout: Layout, parents: list[End]) -> list[End]:
        """Add the rows of the steps behind their parents; return the last jobs."""


#: A step of a pipeline: one bound job, a chain or group of steps, or an `expand()`.
Step = BoundJob | Pipeline | Expansion


class _Chain(Pipeline):
    """One step after the other."""

    def __init__(self, steps: Sequence[Step], on_failure: BoundJob | None) -> None:
        super().__init__(steps, on_failure)
        self.first, self.width = _first(steps[0]), _width(steps[-1])
        for before, behind in pairwise(steps):
            first = _first(behind)
            _require_few_edges(len(first), _width(before))
            for bound in first:
                bound.validate(has_parents=True)

    def _add_steps(self, layout: Layout, parents: list[End]) -> list[End]:
        for step in self.steps:
            _require_few_edges(len(_first(step)), len(parents))
            parents = layout.add(step, parents)
        return parents


class _Group(Pipeline):
    """Steps side by side."""

    def __init__(
        self, steps: Sequence[Step], on_failure: BoundJob | None, *, return_exceptions: bool
    ) -> None:
        super().__init__(steps, on_failure)
        self.return_exceptions = return_exceptions
        self.first = tuple(bound for step in steps for bound in _first(step))
        self.width = sum(map(_width, steps))

    def add_to(self, layout: Layout, parents: list[End]) -> list[End]:
        ends = self._add_steps(layout, parents)
        if self.on_failure is not None:
            layout.add_on_failure(self.on_failure, ends)
        if self.return_exceptions:
            ends = [tolerant(end) for end in ends]
            layout.tolerates = True
        if layout.tolerates:
            required = needed(parents)
            own = [end for end in ends if end.id not in required]
            if self.return_exceptions or len(own) < len(ends):
                # What keeps the group from running at all is not tolerated, here or in a group inside.
                own += required.values()
            ends = own
        layout.ends = ends
        return ends

    def _add_steps(self, layout: Layout, parents: list[End]) -> list[End]:
        ends: list[End] = []
        for index, step in enumerate(self.steps):
            for id, path in layout.add(step, parents):
                ends.append(End(id, f"{index}/{path}" if path else str(index)))
        return ends


def chain(*steps: Step | Iterable[Step], on_failure: BoundJob | None = None) -> Pipeline:
    """Return steps one after the other: each step gets the result of the one before.

    Args:
        steps: bound jobs, chains, groups and expansions, in order; or one iterable of them.
        on_failure: a bound job that runs when the chain fails or is cancelled; it gets the reason, a text,
            as its first argument.

    Raises:
        TypeError: a step is none, or its arguments do not fit its function behind the input from the step before.
        ValueError: there is no step, or two consecutive groups are too large: more than 100,000 pairs.
    """
    return _Chain(_steps(steps), on_failure)


def group(
    *steps: Step | Iterable[Step],
    on_failure: BoundJob | None = None,
    return_exceptions: bool = False,
) -> Pipeline:
    """Return steps side by side; a step behind them gets the list of results, in order.

    Args:
        steps: bound jobs, chains, groups and expansions; or one iterable of them.
        on_failure: a bound job that runs when one of the steps fails or is cancelled, as in `chain()`.
        return_exceptions: whether the next step, and `join()`, get a `JobFailed` or a `JobCancelled` in the place
            of each result that is missing. By default the next step is cancelled instead.

    Raises: as `chain()`.
    """
    return _Group(_steps(steps), on_failure, return_exceptions=return_exceptions)


def expand(
    job: RegisteredJob[..., Any] | BoundJob, *, return_exceptions: bool = False
) -> Expansion:
    """Return a step that becomes one job for each item of the list that the step before returns.

    The item comes first in the job's arguments. The next step gets the list of the results, in the order of the
    items; an empty list goes on as an empty list.

    Args:
        job: the job, or a bound call of it with the arguments behind the item.
        return_exceptions: as in `group()`.

    Raises:
        TypeError: `job` is neither, or its arguments do not fit its function behind the item.
        ValueError: it has a unique key, as no step of a pipeline can.
    """
    bound = job.bind() if isinstance(job, RegisteredJob) else job
    if not isinstance(bound, BoundJob):
        raise TypeError(f"expand() got {job!r}; it takes a job, or {to_bind(job)}")
    if not bound.takes_input:
        raise TypeError(
            f"expand() got a call of {bound.options.name} by bind_alone(), which takes no item; use bind()"
        )
    require_no_unique_key(bound)
    bound.validate(has_parents=True)
    return Expansion(bound, return_exceptions)


def _steps(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the given steps, or those of the one iterable that was given."""
    if (
        len(given) == 1
        and isinstance(given[0], Iterable)
        and not isinstance(given[0], (str, bytes))
    ):
        return tuple(given[0])
    return given


def _require_step(kind: str, step: object) -> None:
    if isinstance(step, Step):
        return
    hint = f"{to_bind(step)}, a chain, a group or an expansion"
    if isinstance(step, Iterable):
        hint += f"; write {kind}(*steps) for the steps of a list beside others"
    raise TypeError(f"a step of a {kind} is {step!r}; it must be {hint}")


def _require_few_edges(children: int, parents: int) -> None:
    if children * parents > MAX_EDGES:
        raise ValueError(
            f"{children:,} jobs that each wait for {parents:,} make more than {MAX_EDGES:,} "
            "pairs; put one job between the two groups"
        )


def _first(step: Step) -> tuple[BoundJob, ...]:
    if isinstance(step, Expansion):
        return (step.job,)
    return step.first if isinstance(step, Pipeline) else (step,)


def _width(step: Step) -> int:
    return step.width if isinstance(step, Pipeline) else 1
