"""What the verbs take and give: plain data, with times in seconds since the epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

from djjp.models import OnCrash, State


class NewJob(NamedTuple):
    """A job to enqueue; its times, and `expires_at`, in seconds since the epoch."""

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

#: The place of an edge to an `on_failure` job.
ON_FAILURE = "!"


class Edge(NamedTuple):
    """That a job waits for another one, and where the other one's result goes: see `Dependency`."""

    parent: UUID
    child: UUID
    result_path: str


class NewGraph(NamedTuple):
    """A pipeline to enqueue, as one: its jobs, parents before children, and its edges.

    Its id is that of its last job, if there is one last job.
    """

    id: UUID
    jobs: list[NewJob]
    edges: list[Edge]

    @property
    def created_at(self) -> float:
        return self.jobs[0].created_at


class Claimed(NamedTuple):
    """A job that this consumer has claimed: what it needs to run it and, later, to prove that it did."""

    id: UUID
    name: str
    arguments: str
    attempt: int
    rescues: int
    flags: int = 0
    input: str | None = None  # what comes before its arguments, for a job that receives something


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


#: Ends that leave everything but result, reason and times as it is, which is written by a shorter statement.
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
    """How far a running job has come, by its own count."""

    claimed: Claimed
    done: int
    total: int | None


class Peer(NamedTuple):
    """What the queue says of a consumer.

    Attributes:
        heartbeat: when it last said that it lives; None when only running jobs name it.
        locked: whether its lock tells that it lives.
    """

    name: str
    heartbeat: float | None
    locked: bool


class Problem(NamedTuple):
    """What keeps a database from holding the queue, and the way out; `code` completes a check's id."""

    code: str
    message: str
    hint: str
