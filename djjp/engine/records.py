"""Plain data that the engine takes and returns, with times in seconds since the epoch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from djjp.ids import made_at
from djjp.models import FINISHED, OnCrash, State


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
    options: str | None = None
    context: str | None = None


# The columns of an insert are the fields of `NewJob`. Few jobs have a value in a field from here on.
_FIRST_RARE = NewJob._fields.index("pipeline")
_PLAIN, _RARE = NewJob._fields[:_FIRST_RARE], NewJob._fields[_FIRST_RARE:]


def _columns(fields: Sequence[str]) -> str:
    return ", ".join((*fields, "attempts", "rescues"))


def _values(fields: Sequence[str]) -> str:
    return ", ".join([*["%s"] * len(fields), "0", "0"])


#: The columns and values of an insert of a plain job, and of a job with any field.
PLAIN_COLUMNS, PLAIN_VALUES = _columns(_PLAIN), _values(_PLAIN)
ALL_COLUMNS, ALL_VALUES = _columns(NewJob._fields), _values(NewJob._fields)


class Holder(NamedTuple):
    """The live job that has a unique key."""

    id: UUID
    state: State


#: The holders of unique keys, by the ids of the jobs that were not enqueued because of them.
KeyHolders = Mapping[UUID, Holder]
NO_HOLDERS: KeyHolders = MappingProxyType({})

_NO_COUNT = 2**31 - 1

#: Creates a record of a class below from a tuple of all its values, without the call in Python that the class
#: makes: a drain creates such records for each job.
new_record: Any = tuple.__new__

#: A claim: the job's id, and the number of times that the job had been claimed by then.
ClaimKey = tuple[UUID, int]


class Edge(NamedTuple):
    """A dependency of a child on its parent; the path is explained in `djjp.engine.result_paths`."""

    parent: UUID
    child: UUID
    result_path: str


class NewPipeline(NamedTuple):
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
    """A job that this consumer has claimed: the data to run it and, later, to pass the fence.

    Attributes:
        claim: how often the job had been claimed, this time included. It only grows, unlike `attempt`, which a
            release takes back: a job that is claimed anew while its last execution still runs is another claim.
        created_at, run_after: as the database has returned them, because few jobs need them: `waited` reads them.
        input: the values before its arguments, for a job that takes input.
        options: those of its call for the execution: see `djjp.call_options`.
        context: the text of its context; read only where there are instruments.
    """

    id: UUID
    name: str
    arguments: str
    attempt: int
    rescues: int
    flags: int = 0
    claim: int = 0
    queue: str = ""
    created_at: object = None
    run_after: object = None
    input: str | None = None
    options: str | None = None
    context: str | None = None

    @property
    def key(self) -> ClaimKey:
        """Return what identifies this claim among all claims ever made."""
        return self.id, self.claim

    def waited(self, until: float) -> float | None:
        """Return for how long the job was due before a time; None unless this is its first claim.

        Later ones begin at no recorded time: after a retry at once, a rescue or a release.
        """
        if self.claim != 1:
            return None
        return max(0.0, until - max(self.enqueued_at, _seconds(self.run_after) or 0.0))

    @property
    def enqueued_at(self) -> float:
        """The time of its row; that of its id for a row by hand."""
        return _seconds(self.created_at) or made_at(self.id)


# PostgreSQL counts microseconds since 2000, and has these two for infinite times.
_YEAR_2000 = datetime(2000, 1, 1, tzinfo=UTC).timestamp()
_INFINITE = -(2**63), 2**63 - 1


def _seconds(value: object) -> float | None:
    """Return a time that a database has returned in seconds; None if it is none, or infinite."""
    if isinstance(value, str):  # of SQLite, in UTC
        with suppress(ValueError, OverflowError):  # a row by hand
            return datetime.fromisoformat(value).replace(tzinfo=UTC).timestamp()
    if isinstance(value, int) and value not in _INFINITE:
        return _YEAR_2000 + value / 1e6
    return None


def require_counts(bits: int) -> None:
    """Raise ValueError if counts of rows, joined by `|`, contain what none can be: a row by hand.

    What is no whole number cannot be joined, and raises TypeError.
    """
    if not 0 <= bits < _NO_COUNT:
        raise ValueError("its attempts, rescues, flags or claim are negative or too large")


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
PLAIN_ENDS = frozenset({State.SUCCEEDED, State.FAILED})
#: The states of an attempt that another one follows.
RUN_AGAIN = (State.READY, State.SCHEDULED)


class FencedUpdate(NamedTuple):
    """A row of the fenced update that finish and release share; None clears the column.

    Attributes:
        claim: the claim that the consumer must still hold.
        attempts: the number of attempts from now on.
        run_after: when the job runs again; None leaves the column unchanged.
    """

    id: UUID
    claim: int
    state: State
    attempts: int
    result: str | None = None
    started_at: float | None = None
    finished_at: float | None = None
    consumer: str | None = None
    run_after: float | None = None
    reason: str | None = None


class Fenced(NamedTuple):
    """The claims for which the fence did otherwise than asked.

    Attributes:
        refused: the claims that the consumer no longer holds: nothing was written of them.
        cancelled: the claims whose jobs were to run again, and were cancelled, because that was requested.
    """

    refused: Collection[ClaimKey] = frozenset()
    cancelled: Collection[ClaimKey] = frozenset()


def update_for(consumer: str, outcome: Outcome) -> FencedUpdate:
    """Return the update that writes an outcome."""
    claimed = outcome.claimed
    if outcome.state not in FINISHED:  # the job runs again, on any consumer
        return FencedUpdate(
            id=claimed.id,
            claim=claimed.claim,
            state=outcome.state,
            finished_at=outcome.finished_at,
            attempts=claimed.attempt,
            run_after=outcome.run_after,
            reason=outcome.reason,
        )
    return FencedUpdate(
        id=claimed.id,
        claim=claimed.claim,
        state=outcome.state,
        attempts=claimed.attempt,
        result=outcome.result,
        started_at=outcome.started_at,
        finished_at=outcome.finished_at,
        consumer=consumer,
        reason=outcome.reason,
    )


#: All was written as asked, the entry of the totals too.
AS_ASKED = Fenced()

#: An entry of the totals: its minute and its figures, see `djjp.engine.totals`.
Entry = tuple[int, str]


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


class Liveness(Enum):
    """The answers of a consumer's locks."""

    LIVES = auto()
    #: The operating system has freed its lock: its process has ended.
    ENDED = auto()
    #: The server has freed its session's lock: it has ended, or it lost its connection and will reconnect.
    CUT_OFF = auto()
    #: It has no lock, or none that can be seen from here.
    UNKNOWN = auto()


class Peer(NamedTuple):
    """A consumer, as the queue's database records it.

    Attributes:
        heartbeat: the time of its last heartbeat; None when only running jobs name it.
        locked: whether it has a lock that others can test; a dead consumer's row keeps the value.
        requested: whether its row has a request that it has not answered: see `djjp.engine.requests`.
    """

    name: str
    heartbeat: float | None
    locked: bool
    requested: bool = False


class Problem(NamedTuple):
    """A reason why a database cannot hold the queue, with the fix as `hint`; `code` completes a check's id."""

    code: str
    message: str
    hint: str
