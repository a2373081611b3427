"""Screening: jobs that were claimed and have terms are looked at once more, in the same transaction."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from uuid import UUID

from djjp.claims.data import Claimed, Screened
from djjp.claims.expiry import Expiry
from djjp.claims.rates import Rates
from djjp.models import Trait


class Screening(Rates, Expiry):
    """The verb that puts limits, rates, unique keys and expiry together."""

    def screen(
        self, consumer: str, claimed: Sequence[Claimed], ended: Collection[UUID] = ()
    ) -> Screened:
        """Look at the terms of jobs that were claimed in this transaction, as its last step.

        Args:
            ended: jobs under a limit that have stopped running in this transaction.
        """
        now = time.time()
        away = self._expired([job for job in claimed if job.traits & Trait.EXPIRES], now)
        counted = [
            job
            for job in claimed
            if job.traits & (Trait.LIMITED | Trait.RATED) and job.id not in away
        ]
        terms = self._terms(counted)
        freed = self._freed(ended)
        keys = {term.key for term in terms} | freed
        if keys:
            self._lock_keys(keys)
        over = self._over_limit([term for term in terms if term.per is None])
        late = self._over_rate([term for term in terms if term.per is not None])
        gone = away | {self._uuid(row) for row in over | late}
        jobs = [job for job in claimed if job.id not in gone]
        if starting := [job.id for job in jobs if job.traits & Trait.UNTIL_START]:
            self._change("unique_key = NULL", [], self._keys(starting))
        return Screened(jobs, opened=self._let_in(freed) > 0, put_off=bool(late))
