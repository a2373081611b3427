"""The rows and edges of a pipeline while it is built."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol
from uuid import UUID

from djjp.engine import Edge, NewJob, NewPipeline
from djjp.engine.result_paths import NO_RESULT, ON_FAILURE, TOLERANT, tolerates
from djjp.ids import new_id
from djjp.jobs import BoundJob
from djjp.jobs.hints import OF_EXPANSION, Hints
from djjp.models import Flag, OnCrash, State


class End(NamedTuple):
    """A job that the next step waits for, and where its result goes there: see `djjp.engine.result_paths`.

    The path is empty for a step that ends with one job, whose result is the step's.
    """

    id: UUID
    result_path: str


@dataclass(frozen=True, eq=False, repr=False)
class Expansion(Hints):
    """A step that becomes one job for each item of the list from the step before: see `expand()`.

    Attributes:
        job: the call of each job, which lacks the item.
        return_exceptions: whether the reason takes the place of a missing result.
    """

    job: BoundJob
    return_exceptions: bool

    _words = OF_EXPANSION

    def __repr__(self) -> str:
        return f"<expansion of {self.job.options.name}>"


class Composite(Protocol):
    """A step that consists of steps: a chain or a group."""

    def add_to(self, layout: Layout, parents: list[End]) -> list[End]: ...


class Layout:
    """The rows and edges of a pipeline while it is built, each job after its parents.

    Attributes:
        ends: the last jobs of the step that was added last: in the end, of the pipeline.
        tolerates: whether a group in it tolerates failures.
    """

    def __init__(self) -> None:
        self.ends: list[End] = []
        self.tolerates = False
        self._jobs: dict[UUID, NewJob] = {}
        self._edges: list[Edge] = []
        self._databases: set[str] = set()

    @property
    def ends_with_group(self) -> bool:
        """True when the pipeline's result is a list of results, not that of one last job."""
        return self.ends[0].result_path != ""  # those that carry a result come first

    def add(self, step: BoundJob | Expansion | Composite, parents: list[End]) -> list[End]:
        """Add the rows of a step behind its parents; return its last jobs."""
        if isinstance(step, Expansion):
            return [End(self._add_expansion(step, parents), "")]
        if not isinstance(step, BoundJob):
            return step.add_to(self, parents)
        require_no_unique_key(step)
        if not parents:
            return [End(self._add_row(step.to_row(), step), "")]
        return [End(self._add_blocked(step, parents, 0), "")]

    def add_on_failure(self, on_failure: BoundJob, parents: list[End]) -> None:
        """Add the row of a job that waits for one of its parents not to succeed; none if all are tolerated."""
        require_no_unique_key(on_failure)
        if not parents:
            return
        edges = [End(parent.id, ON_FAILURE) for parent in parents]
        self._add_blocked(on_failure, edges, Flag.ON_FAILURE)

    def pipeline(self) -> NewPipeline:
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
        return NewPipeline(pipeline, jobs, edges)

    def database(self) -> str | None:
        """Return the database whose transaction the pipeline belongs to, if its jobs name one."""
        if len(self._databases) > 1:
            names = ", ".join(sorted(self._databases))
            raise ValueError(f"the jobs of a pipeline are enqueued together, not with {names}")
        return next(iter(self._databases), None)

    def _add_blocked(self, bound: BoundJob, parents: list[End], flags: int) -> UUID:
        job = bound.to_row(has_parents=True)
        flags |= job.flags | Flag.FOLLOWS | (Flag.TAKES_INPUT if bound.takes_input else 0)
        job = job._replace(state=State.BLOCKED, waits_for=len(parents), flags=flags)
        self._edges += [Edge(parent.id, job.id, parent.result_path) for parent in parents]
        return self._add_row(job, bound)

    def _add_expansion(self, step: Expansion, parents: list[End]) -> UUID:
        """Add the two rows of an expansion; return the id of the one that collects."""
        bound = step.job
        if not parents:
            raise ValueError(
                f"expand({bound.options.name}) is the first step: it needs one before it, which returns the list; "
                f"for a list at hand write group({bound.options.name}.bind(item) for item in items)"
            )
        # The constraints of the job are those of each member; only the expiry is of the step as a whole.
        options = bound.options.replaced(limit=None, on_crash=OnCrash.RETRY)
        flags = Flag.EXPANDS | (Flag.TOLERATES if step.return_exceptions else 0)
        expands = self._add_blocked(replace(bound, options=options), parents, flags)
        job = self._jobs[expands]
        collects = job._replace(
            id=new_id(), state=State.BLOCKED, run_after=None, waits_for=1, expires_at=None
        )
        flags = Flag.COLLECTS | Flag.UNLISTED | flags & Flag.TOLERATES
        self._edges.append(Edge(expands, collects.id, NO_RESULT))
        return self._add_row(collects._replace(flags=flags, options=None), bound)

    def _add_row(self, job: NewJob, bound: BoundJob) -> UUID:
        self._jobs[job.id] = job
        if bound.options.database is not None:
            self._databases.add(bound.options.database)
        return job.id


def require_no_unique_key(step: BoundJob) -> None:
    if step.options.unique_key is not None:
        raise ValueError(
            f"{step.options.name} has a unique key: no step of a pipeline can have one, "
            "because another job would have to stand in for it"
        )


def tolerant(end: End) -> End:
    """Return an end of a group's member whose failure the group tolerates."""
    place, slash, rest = end.result_path.partition("/")
    return End(end.id, f"{place.removesuffix(TOLERANT)}{TOLERANT}{slash}{rest}")


def needed(parents: Iterable[End]) -> dict[UUID, End]:
    """Return the ends that make what is behind them wait for the success of these parents, by parent."""
    return {
        parent.id: End(parent.id, NO_RESULT)
        for parent in parents
        if not tolerates(parent.result_path)
    }
