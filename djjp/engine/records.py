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


#: Who has the unique keys of jobs that were therefore not enqueued, by these jobs' ids.
Held = Mapping[UUID, Holder]
NOBODY: Held = MappingProxyType({})

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
    """How an attempt ended: plain data until `Claims.finish` writes it."""

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


class Settled(NamedTuple):
    """One row of the guarded update that finish and release share; None clears the column."""

    id: UUID
    attempt: int
    state: str
    result: str | None
    started_at: float | None
    finished_at: float | None
    consumer: str | None
    attempts: int
    run_after: float | None = None  # None leaves it as it is
    reason: str | None = None


class Screened(NamedTuple):
    """What is left of claimed jobs once their terms were looked at.

    Attributes:
        jobs: those that may run.
        opened: whether others were made ready.
        put_off: whether some wait for a later time now.
        starts: of those under a rate, until when the start of each counts.
    """

    jobs: list[Claimed]
    opened: bool = False
    put_off: bool = False
    starts: Mapping[UUID, float] = MappingProxyType({})


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
