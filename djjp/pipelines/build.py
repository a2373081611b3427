"""Pipelines: jobs that wait for one another, built by `chain` and `group` and enqueued as one.

A pipeline is validated before anything is written. A step behind others gets their result as its first
argument, a list of results after a group; the first steps get no input.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple
from uuid import UUID

from asgiref.sync import sync_to_async

from djjp.engine import Edge, NewGraph, NewJob
from djjp.engine.records import ON_FAILURE
from djjp.ids import new_id
from djjp.jobs import BoundJob, RegisteredJob
from djjp.jobs.enqueue import aenqueue, enqueue
from djjp.models import Flag, State
from djjp.pipelines.handles import GroupHandle, PipelineHandle, aget_pipeline, get_pipeline

__all__ = [
    "Pipeline",
    "PipelineHandle",
    "aget_pipeline",
    "chain",
    "get_pipeline",
    "group",
]

#: The limit on the edges between two consecutive steps: each member of a group waits for each member of
#: the group before it.
MAX_EDGES = 100_000


class _End(NamedTuple):
    """A last job of a step, and where its result goes in the step's result: see `Dependency`.

    The path is empty for a step that ends with one job, whose result is the step's.
    """

    id: UUID
    result_path: str


class Pipeline(ABC):
    """Bound jobs in an order, not enqueued yet, as `chain()` and `group()` return them.

    Attributes:
        first: the bound jobs that wait for no other job of it.
        width: the number of its last jobs.
    """

    first: tuple[BoundJob, ...]
    width: int

    def __init__(self, steps: Sequence[Step], on_failure: BoundJob | None) -> None:
        kind = type(self).__name__.lower().strip("_")
        if not steps:
            raise ValueError(f"a {kind} needs at least one step")
        for step in steps:
            _require_step(kind, step)
        if on_failure is not None:
            if not isinstance(on_failure, BoundJob):
                raise TypeError(f"on_failure is {on_failure!r}; it must be a bound job")
            on_failure.validate(has_parents=True)
        self.steps = tuple(steps)
        self.on_failure = on_failure

    def run_later(self) -> PipelineHandle:
        """Enqueue all jobs, at once and whole, and return the pipeline's handle.

        Raises:
            TypeError: the arguments of a first step do not fit its function.
            ValueError: its jobs name different databases, or one has a unique key.
            QueueUnavailable: the queue's database does not answer, and there is no outbox for the jobs.
        """
        graph, handle, database = self._build()
        enqueue(graph, database)
        return handle

    async def arun_later(self) -> PipelineHandle:
        """`run_later` for coroutines."""
        graph, handle, database = await sync_to_async(self._build)()
        await aenqueue(graph, database)
        return handle

    def _build(self) -> tuple[NewGraph, PipelineHandle, str | None]:
        layout = _Layout()
        self._add_to(layout, [])
        graph = layout.graph()
        steps = [(job.id, job.state) for job in graph.jobs if not job.flags & Flag.ON_FAILURE]
        kind = GroupHandle if layout.ends_with_group else PipelineHandle
        state = dict(steps)[layout.ends[0].id]
        return graph, kind(graph.id, state, steps), layout.database()

    def _add_to(self, layout: _Layout, parents: list[_End]) -> list[_End]:
        """Add the rows of all steps behind their parents; return the last jobs."""
        ends = self._add_steps(layout, parents)
        layout.ends = ends
        if self.on_failure is not None:
            layout.add_on_failure(self.on_failure, ends)
        return ends

    @abstractmethod
    def _add_steps(self, layout: _Layout, parents: list[_End]) -> list[_End]:
        """Add the rows of the steps behind their parents; return the last jobs."""


Step = BoundJob | Pipeline


class _Chain(Pipeline):
    """One step after the other."""

    def __init__(self, steps: Sequence[Step], on_failure: BoundJob | None) -> None:
        super().__init__(steps, on_failure)
        self.first, self.width = _first(steps[0]), _width(steps[-1])
        for before, behind in pairwise(steps):
            first, width = _first(behind), _width(before)
            if len(first) * width > MAX_EDGES:
                raise ValueError(
                    f"{len(first):,} jobs that each wait for {width:,} make more than {MAX_EDGES:,} "
                    "pairs; put one job between the two groups"
                )
            for bound in first:
                bound.validate(has_parents=True)

    def _add_steps(self, layout: _Layout, parents: list[_End]) -> list[_End]:
        for step in self.steps:
            parents = layout.add(step, parents)
        return parents


class _Group(Pipeline):
    """Steps side by side."""

    def __init__(self, steps: Sequence[Step], on_failure: BoundJob | None) -> None:
        super().__init__(steps, on_failure)
        self.first = tuple(bound for step in steps for bound in _first(step))
        self.width = sum(map(_width, steps))

    def _add_steps(self, layout: _Layout, parents: list[_End]) -> list[_End]:
        ends: list[_End] = []
        for number, step in enumerate(self.steps):
            for id, path in layout.add(step, parents):
                ends.append(_End(id, f"{number}/{path}" if path else str(number)))
        return ends


class _Layout:
    """The rows and edges of a pipeline while it is built, each job after its parents.

    Attributes:
        ends: the last jobs of the step that was added last: in the end, of the pipeline.
    """

    def __init__(self) -> None:
        self.ends: list[_End] = []
        self._jobs: dict[UUID, NewJob] = {}
        self._edges: list[Edge] = []
        self._databases: set[str] = set()

    @property
    def ends_with_group(self) -> bool:
        """True when the pipeline's result is a list of results, not that of one last job."""
        return self.ends[0].result_path != ""

    def add(self, step: Step, parents: list[_End]) -> list[_End]:
        """Add the rows of a step behind its parents; return its last jobs."""
        if isinstance(step, Pipeline):
            return step._add_to(self, parents)  # noqa: SLF001  (its other half)
        _require_no_unique_key(step)
        if not parents:
            return [_End(self._add_row(step.to_row(), step), "")]
        return [_End(self._add_blocked(step, parents, 0), "")]

    def add_on_failure(self, on_failure: BoundJob, parents: list[_End]) -> None:
        """Add the row of a job that waits for one of its parents not to succeed."""
        _require_no_unique_key(on_failure)
        edges = [_End(parent.id, ON_FAILURE) for parent in parents]
        self._add_blocked(on_failure, edges, Flag.ON_FAILURE)

    def graph(self) -> NewGraph:
        """Return the whole pipeline, to be enqueued."""
        pipeline = new_id() if self.ends_with_group else self.ends[0].id
        flags = dict.fromkeys((edge.parent for edge in self._edges), Flag.HAS_DEPENDENTS)
        for edge in self._edges:
            if self._jobs[edge.child].run_after is not None:
                flags[edge.parent] |= Flag.DELAYS_CHILD
        jobs = [
            job._replace(pipeline=pipeline, flags=job.flags | flags.get(job.id, 0))
            for job in self._jobs.values()
        ]
        edges = self._edges
        if self.ends_with_group:
            edges = edges + [Edge(end.id, pipeline, end.result_path) for end in self.ends]
        return NewGraph(pipeline, jobs, edges)

    def database(self) -> str | None:
        """Return the database whose transaction the pipeline belongs to, if its jobs name one."""
        if len(self._databases) > 1:
            names = ", ".join(sorted(self._databases))
            raise ValueError(f"the jobs of a pipeline are enqueued together, not with {names}")
        return next(iter(self._databases), None)

    def _add_blocked(self, bound: BoundJob, parents: list[_End], flags: int) -> UUID:
        job = bound.to_row(has_parents=True)
        flags |= job.flags | (Flag.TAKES_INPUT if bound.takes_input else 0)
        job = job._replace(state=State.BLOCKED, waits_for=len(parents), flags=flags)
        self._edges += [Edge(parent.id, job.id, parent.result_path) for parent in parents]
        return self._add_row(job, bound)

    def _add_row(self, job: NewJob, bound: BoundJob) -> UUID:
        self._jobs[job.id] = job
        if bound.options.database is not None:
            self._databases.add(bound.options.database)
        return job.id


def chain(*steps: Step, on_failure: BoundJob | None = None) -> Pipeline:
    """Return bound jobs, chains and groups one after the other: each step gets the result of the one before.

    Args:
        steps: the bound jobs, chains and groups, in order.
        on_failure: a bound job that runs when a job of the chain fails or is cancelled; it gets the
            reason, a text, as its first argument.

    Raises:
        TypeError: a step is no bound job, chain or group, or its arguments do not fit its function behind
            the input from the step before.
        ValueError: there is no step, or two consecutive groups are too large: more than 100,000 pairs.
    """
    return _Chain(steps, on_failure)


def group(*steps: Step, on_failure: BoundJob | None = None) -> Pipeline:
    """Return bound jobs, chains and groups side by side; a step behind them gets the list of results, in order.

    Args, Raises: as `chain()`.
    """
    return _Group(steps, on_failure)


def _require_step(kind: str, step: object) -> None:
    if isinstance(step, Step):
        return
    hint = "a bound job, a chain or a group"
    if isinstance(step, RegisteredJob):
        hint = f"a call of it: {step.name}.bind(…)"
    elif hasattr(step, "__iter__"):
        hint += f"; write {kind}(*steps) for the steps of a list"
    raise TypeError(f"a step of a {kind} is {step!r}; it must be {hint}")


def _require_no_unique_key(step: BoundJob) -> None:
    if step.options.unique_key is not None:
        raise ValueError(
            f"{step.options.name} has a unique key: no step of a pipeline can have one, "
            "for another job would have to stand in for it"
        )


def _first(step: Step) -> tuple[BoundJob, ...]:
    return step.first if isinstance(step, Pipeline) else (step,)


def _width(step: Step) -> int:
    return step.width if isinstance(step, Pipeline) else 1
