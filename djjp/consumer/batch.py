"""The batch: what one turn writes about the jobs that its consumer holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from djjp.engine import Claimed, Outcome, Progress
from djjp.models import Flag

#: The number of characters of results and errors that one turn writes, unless a single outcome has more.
BATCH_SIZE = 16 * 1024**2


class Batch(NamedTuple):
    """The writes of one turn: a snapshot, because jobs report more outcomes while the turn commits.

    Attributes:
        reported: all outcomes in the order in which they were reported.
        outcomes: those of them that are still this consumer's to write.
        progress: the last progress of each running job that reported any.
        releases: the jobs to release.
        locked: the identities of the reported jobs whose rows another transaction has locked.
    """

    reported: Sequence[Outcome] = ()
    outcomes: Sequence[Outcome] = ()
    progress: Sequence[Progress] = ()
    releases: Sequence[Claimed] = ()
    locked: frozenset[int] = frozenset()

    def settled(self) -> set[int]:
        """Return the identities of the held jobs that are no longer held once the batch is written."""
        return {id(o.claimed) for o in self.outcomes} | {id(job) for job in self.releases}

    def is_empty(self) -> bool:
        """Return whether there is nothing to write."""
        return not (self.reported or self.progress or self.releases)

    def flags(self) -> int:
        """Return the flags of all jobs that ended, together."""
        flags = 0
        for job, _, _, _, _, _, _, _ in self.outcomes:
            flags |= job.flags
        return flags

    def ended_under_limit(self) -> list[UUID]:
        """Return the jobs under a limit that no longer run once the batch is written."""
        ended = [o.claimed.id for o in self.outcomes if o.claimed.flags & Flag.LIMITED]
        return ended + [job.id for job in self.releases if job.flags & Flag.LIMITED]


def bounded(outcomes: list[Outcome]) -> list[Outcome]:
    """Return the first of these outcomes that fit into one turn: all of them, unless they are large."""
    size = 0
    for _, _, _, _, result, failure, _, _ in outcomes:
        if result is not None:
            size += len(result)
        if failure is not None:
            size += len(failure.traceback)
    if size <= BATCH_SIZE:
        return outcomes
    total = 0
    for number, outcome in enumerate(outcomes):
        total += _size(outcome)
        if total > BATCH_SIZE:
            return outcomes[: max(1, number)]
    return outcomes


def _size(outcome: Outcome) -> int:
    size = len(outcome.result or "")
    return size if outcome.failure is None else size + len(outcome.failure.traceback)
