"""Screening: jobs that were claimed and have terms are looked at once more, in the same transaction."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from uuid import UUID

from djjp.engine.expiry import Expiry
from djjp.engine.rates import SLACK, Rates
from djjp.engine.records import Claimed, Screened
from djjp.models import Flag


class Screening(Rates, Expiry):
    """The verb that puts limits, rates, unique keys and expiry together."""

    def screen(
        self, claimed: Sequence[Claimed], ended: Collection[UUID] = (), *, slack: float = SLACK
    ) -> Screened:
        """Look at the terms of jobs that were claimed in this transaction, as its last step.

        Args:
            ended: jobs under a limit that have stopped running in this transaction.
            slack: seconds within which those under a rate begin, or are given back.
        """
        now = time.time()
        away = self._expired([job for job in claimed if job.flags & Flag.EXPIRES], now)
        counted = [
            job
            for job in claimed
            if job.flags & (Flag.LIMITED | Flag.RATE_LIMITED) and job.id not in away
        ]
        terms = self._terms(counted)
        # What has expired had been let in for a place.
        freed = self._freed([*ended, *away])
        if keys := {term.key for term in terms} | freed:
            self._lock_keys(keys)
        over, passed = self._over_limit([term for term in terms if term.per is None])
        rated = [term for term in terms if term.per is not None]
        starts = self._starting(rated, slack)
        late = {term.row for term in rated} - starts.keys()
        gone = away | {self._uuid(row) for row in over | late}
        jobs = [job for job in claimed if job.id not in gone]
        if starting := [job.id for job in jobs if job.flags & Flag.UNTIL_START]:
            self._change("unique_key = NULL", [], self._keys(starting))
        return Screened(
            jobs,
            opened=self._let_in(freed | passed) > 0,
            put_off=bool(late),
            starts={self._uuid(row): until for row, until in starts.items()},
        )
