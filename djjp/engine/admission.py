"""Admission: decide, in the transaction of the claim, which claimed jobs with constraints can run."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from uuid import UUID

from djjp.engine.database import Database
from djjp.engine.expiry import Expiry
from djjp.engine.limits import Limits
from djjp.engine.rates import START_MARGIN, Rates
from djjp.engine.records import Admitted, Claimed
from djjp.models import Flag


class Admission:
    """Apply limits, rates and expiry together, and free the unique keys that are held until the start."""

    def __init__(self, db: Database, limits: Limits, rates: Rates, expiry: Expiry) -> None:
        self._db = db
        self._limits = limits
        self._rates = rates
        self._expiry = expiry

    def admit(
        self,
        claimed: Sequence[Claimed],
        ended: Collection[UUID] = (),
        *,
        start_margin: float = START_MARGIN,
    ) -> Admitted:
        """Check the constraints of jobs that this transaction has claimed; this is its last step.

        Args:
            ended: jobs under a limit that have stopped running in this transaction.
            start_margin: seconds within which jobs under a rate must start, or are released.
        """
        now = time.time()
        expired = self._expiry.cancel_expired(
            [job for job in claimed if job.flags & Flag.EXPIRES], now
        )
        counted = [
            job
            for job in claimed
            if job.flags & (Flag.LIMITED | Flag.RATE_LIMITED) and job.id not in expired
        ]
        candidates = self._limits.candidates(counted)
        # A permit was reserved when an expired job became ready; now the next blocked job gets it.
        freed = self._limits.keys_released([*ended, *expired])
        if keys := {candidate.key for candidate in candidates} | freed:
            self._db.lock_keys(keys)
        over, passed = self._limits.block_over_limit(
            [candidate for candidate in candidates if candidate.per is None]
        )
        rated = [candidate for candidate in candidates if candidate.per is not None]
        starts = self._rates.count_starts(rated, start_margin)
        late = {candidate.row for candidate in rated} - starts.keys()
        removed = expired | {self._db.to_uuid(row) for row in over | late}
        jobs = [job for job in claimed if job.id not in removed]
        if starting := [job.id for job in jobs if job.flags & Flag.UNTIL_START]:
            self._db.update("unique_key = NULL", [], self._db.keys(starting))
        return Admitted(
            jobs,
            unblocked=self._limits.unblock_keys(freed | passed) > 0,
            throttled=bool(late),
            start_deadlines={self._db.to_uuid(row): until for row, until in starts.items()},
        )
