"""Plain data that the engine takes and returns, with times in seconds since the epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

from djjp.models import OnCrash, State


class NewJob(NamedTuple):
    """A job to enqueue."""

    id: UUID
    name: str
    queue: str
    priority: int
    state: State
    run_after: float | None
    created_at: float
    arguments: str
    on_crash: OnCrash = OnCrash.RETRY
    flags: int = 0
    pipeline: UUID | None = None
    waits_for: int = 0
    unique_key: str | None = None
    limit_key: str | None = None
    limit_max: int | None = None
    limit_per: float | None = None
    expires_at: float | None = None


class Holder(NamedTuple):
    """The live job that has a unique key."""

    id: UUID
    state: State


#: The holders of unique keys, by the ids of the jobs that were not enqueued because of them.
KeyHolders = Mapping[UUID, Holder]
NO_HOLDERS: KeyHolders = MappingProxyType({})

#: The result path of an edge to an `on_failure` job.
ON_FAILURE = "!"


class Edge(NamedTuple):
    """A dependency of a child on its parent, and where the parent's result goes: see `Dependency`."""

    parent: UUID
    child: UUID
    result_path: str


class NewGraph(NamedTuple):
    """A pipeline to enqueue as a unit: its jobs, parents before children, and its edges.

    Its id is that of its last job, if there is one last job.
    """

    id: UUID
    jobs: list[NewJob]
    edges: list[Edge]

    @property
    def created_at(self) -> float:
        return self.jobs[0].created_at


class Claimed(NamedTuple):
    """A job that this consumer has claimed: the data to run it and, later, to pass the fence."""

    id: UUID
    name: str
    arguments: str
    attempt: int
    rescues: int
    flags: int = 0
    input: str | None = None  # the values before its arguments, for a job that takes input


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, as text of bounded size."""

    exception_class: str
    message: str
    traceback: str


class Outcome(NamedTuple):
    """How an attempt ended: plain data until `Jobs.finish` writes it."""

    claimed: Claimed
    state: State
    started_at: float
    finished_at: float
    result: str | None = None
    failure: Failure | None = None
    run_after: float | None = None  # when to run again, for a state that is not the end
    reason: str | None = None  # why it was cancelled


#: Ends that change only state, result, reason and times, which a shorter statement writes.
PLAIN_ENDS = (State.SUCCEEDED, State.FAILED)


class FencedUpdate(NamedTuple):
    """A row of the fenced update that finish and release share; None clears the column.

    Attributes:
        attempt: the attempt that the consumer must still run.
        attempts: the number of attempts from now on.
        run_after: when the job runs again; None leaves the column unchanged.
    """

    id: UUID
    attempt: int
    state: str
    attempts: int
    result: str | None = None
    started_at: float | None = None
    finished_at: float | None = None
    consumer: str | None = None
    run_after: float | None = None
    reason: str | None = None


class Admitted(NamedTuple):
    """The result of admission.

    Attributes:
        jobs: the claimed jobs that can run.
        unblocked: whether other jobs were made ready.
        throttled: whether some of the claimed jobs were scheduled for later.
        start_deadlines: for jobs under a rate, the time until which each start counts.
    """

    jobs: list[Claimed]
    unblocked: bool = False
    throttled: bool = False
    start_deadlines: Mapping[UUID, float] = MappingProxyType({})


class Progress(NamedTuple):
    """The progress of a running job, by its own count."""

    claimed: Claimed
    done: int
    total: int | None


class Peer(NamedTuple):
    """A consumer, as the queue's database records it.

    Attributes:
        heartbeat: the time of its last heartbeat; None when only running jobs name it.
        locked: whether its lock is held, which proves that it lives.
    """

    name: str
    heartbeat: float | None
    locked: bool


class Problem(NamedTuple):
    """A reason why a database cannot hold the queue, with the fix as `hint`; `code` completes a check's id."""

    code: str
    message: str
    hint: str
