"""Pipelines: jobs that wait for one another, put together by `chain` and `group` and enqueued as one.

What is put together is checked before anything is written. A step behind others gets their result as its
first argument, a list of results after a group; the first steps get nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
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

#: How many pairs two steps may make that follow each other: each member of a group waits for each
#: member of the group before it.
MOST_PAIRS = 100_000

#: Where results come from, in order: jobs, and the place of each.
_Ends = list[tuple[UUID, str]]


class Pipeline(ABC):
    """Bound jobs in an order, not enqueued yet: what `chain()` and `group()` return.

    Attributes:
        first: the bound jobs that wait for nothing in it.
        width: how many jobs it ends with.
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
            on_failure.check(behind=True)
        self.steps = tuple(steps)
        self.on_failure = on_failure

    def run_later(self) -> PipelineHandle:
        """Enqueue all jobs, at once and whole, and return the pipeline's handle.

        Raises:
            TypeError: the arguments of a first step do not fit its function.
            ValueError: its jobs name different databases.
        """
        graph, handle, database = self._made()
        enqueue(graph, database)
        return handle

    async def arun_later(self) -> PipelineHandle:
        """`run_later` for coroutines."""
        graph, handle, database = await sync_to_async(self._made)()
        await aenqueue(graph, database)
        return handle

    def _made(self) -> tuple[NewGraph, PipelineHandle, str | None]:
        layout = _Layout()
        ends = self._lay(layout, [])
        graph = layout.graph(ends)
        steps = [(job.id, job.state) for job in graph.jobs if not job.flags & Flag.ON_FAILURE]
        kind = GroupHandle if ends[0][1] else PipelineHandle
        state = dict(steps)[ends[0][0]]
        return graph, kind(graph.id, state, steps), layout.database()

    def _lay(self, layout: _Layout, before: _Ends) -> _Ends:
        ends = self._steps_laid(layout, before)
        if self.on_failure is not None:
            layout.watch(self.on_failure, ends)
        return ends

    @abstractmethod
    def _steps_laid(self, layout: _Layout, before: _Ends) -> _Ends:
        """Make the rows of the steps behind others; returns where the results come from."""


Step = BoundJob | Pipeline


class _Chain(Pipeline):
    """One step after the other."""

    def __init__(self, steps: Sequence[Step], on_failure: BoundJob | None) -> None:
        super().__init__(steps, on_failure)
        self.first, self.width = _first(steps[0]), _width(steps[-1])
        for before, behind in pairwise(steps):
            first, width = _first(behind), _width(before)
            if len(first) * width > MOST_PAIRS:
                raise ValueError(
                    f"{len(first):,} jobs that each wait for {width:,} make more than {MOST_PAIRS:,} "
                    "pairs; put one job between the two groups"
                )
            for bound in first:
                bound.check(behind=True)

    def _steps_laid(self, layout: _Layout, before: _Ends) -> _Ends:
        for step in self.steps:
            before = layout.lay(step, before)
        return before


class _Group(Pipeline):
    """Steps side by side."""

    def __init__(self, steps: Sequence[Step], on_failure: BoundJob | None) -> None:
        super().__init__(steps, on_failure)
        self.first = tuple(bound for step in steps for bound in _first(step))
        self.width = sum(map(_width, steps))

    def _steps_laid(self, layout: _Layout, before: _Ends) -> _Ends:
        ends: _Ends = []
        for number, step in enumerate(self.steps):
            for id, place in layout.lay(step, before):
                ends.append((id, f"{number}/{place}" if place else str(number)))
        return ends


class _Layout:
    """Rows and edges of a pipeline as they are made, each job after those that it waits for."""

    def __init__(self) -> None:
        self._jobs: dict[UUID, NewJob] = {}
        self._edges: list[Edge] = []
        self._databases: set[str] = set()

    def lay(self, step: Step, before: _Ends) -> _Ends:
        """Make the rows of a step behind others; returns where its results come from."""
        if isinstance(step, Pipeline):
            return step._lay(self, before)  # noqa: SLF001  (its other half)
        _require_no_unique_key(step)
        if not before:
            return [(self._add(step.row(), step), "")]
        job = step.step(behind=True)
        flags = job.flags | (Flag.TAKES_INPUT if step.receives else 0)
        job = job._replace(state=State.BLOCKED, waits_for=len(before), flags=flags)
        id = self._add(job, step)
        self._edges += [Edge(parent, id, place) for parent, place in before]
        return [(id, "")]

    def watch(self, on_failure: BoundJob, ends: _Ends) -> None:
        """Make the row of a job that waits for one of these not to succeed."""
        _require_no_unique_key(on_failure)
        job = on_failure.step(behind=True)
        flags = job.flags | Flag.ON_FAILURE | (Flag.TAKES_INPUT if on_failure.receives else 0)
        job = job._replace(state=State.BLOCKED, waits_for=len(ends), flags=flags)
        id = self._add(job, on_failure)
        self._edges += [Edge(parent, id, ON_FAILURE) for parent, _ in ends]

    def graph(self, ends: _Ends) -> NewGraph:
        """All of it, to be enqueued."""
        single = not ends[0][1]
        pipeline = ends[0][0] if single else new_id()
        flags = dict.fromkeys((edge.parent for edge in self._edges), Flag.HAS_DEPENDENTS)
        for edge in self._edges:
            if self._jobs[edge.child].run_after is not None:
                flags[edge.parent] |= Flag.DELAYS_CHILD
        jobs = [
            job._replace(pipeline=pipeline, flags=job.flags | flags.get(job.id, 0))
            for job in self._jobs.values()
        ]
        edges = self._edges
        if not single:
            edges = edges + [Edge(id, pipeline, place) for id, place in ends]
        return NewGraph(pipeline, jobs, edges)

    def database(self) -> str | None:
        """The database whose transaction the pipeline belongs to, if its jobs name one."""
        if len(self._databases) > 1:
            names = ", ".join(sorted(self._databases))
            raise ValueError(f"the jobs of a pipeline are enqueued together, not with {names}")
        return next(iter(self._databases), None)

    def _add(self, job: NewJob, bound: BoundJob) -> UUID:
        self._jobs[job.id] = job
        if bound.job.database is not None:
            self._databases.add(bound.job.database)
        return job.id


def chain(*steps: Step, on_failure: BoundJob | None = None) -> Pipeline:
    """Bound jobs, chains and groups one after the other: each step gets the result of the one before.

    Args:
        on_failure: a bound job that runs when the chain does not come to its end; it gets the reason, a
            text, as its first argument.

    Raises:
        TypeError: a step is no bound job, chain or group, or its arguments do not fit its function behind
            what it receives.
        ValueError: there is no step, or two groups that follow each other are too large.
    """
    return _Chain(steps, on_failure)


def group(*steps: Step, on_failure: BoundJob | None = None) -> Pipeline:
    """Bound jobs, chains and groups side by side; what follows gets the list of their results, in order.

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
    if step.job.unique_key is not None:
        raise ValueError(
            f"{step.job.name} has a unique key: no step of a pipeline can have one, "
            "for another job would have to stand in for it"
        )


def _first(step: Step) -> tuple[BoundJob, ...]:
    return step.first if isinstance(step, Pipeline) else (step,)


def _width(step: Step) -> int:
    return step.width if isinstance(step, Pipeline) else 1
