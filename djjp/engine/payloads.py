"""Payloads: read the large arguments and the inputs of claimed jobs, within a bound.

A claim reads arguments of up to `LARGE` characters with the rows, a thousand at most, and leaves longer ones
empty. These, and the results that steps of pipelines take as input, are read here, after their sizes:
one claim takes jobs of `CLAIM_BYTES` in all, or a single larger one. So a consumer never holds in memory what it
cannot run soon, and no statement returns more than a database can.
"""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from djjp import instruments
from djjp.engine.database import Database
from djjp.engine.inputs import Inputs
from djjp.engine.records import Claimed, Failure
from djjp.engine.rows import TABLE
from djjp.models import Flag

#: The length from which arguments are not read with the row of their job.
LARGE = 16_384
#: The total that one claim reads of large arguments and inputs, unless a single job has more.
CLAIM_BYTES = 16 * 1024**2
# What is read here for a job with one of these flags.
_LOADED = Flag.TAKES_INPUT | Flag.OPTIONS
_LOADED_WITH_CONTEXT = _LOADED | Flag.CONTEXT
_BESIDE_ARGUMENTS = Flag.OPTIONS | Flag.CONTEXT
#: The largest input of a step: what its parents' results come to.
MAX_INPUT = 256 * 1024**2


class Loaded(NamedTuple):
    """Claimed jobs with all that they need to run, and those that cannot run now, or not at all.

    Attributes:
        jobs: the jobs with their arguments and inputs.
        left: the jobs that did not fit into the bound of one claim.
        failed: the jobs whose input is larger than any job's can be, each with the reason.
    """

    jobs: list[Claimed]
    left: list[Claimed] = []
    failed: list[tuple[Claimed, Failure]] = []


class Payloads:
    """Read arguments and inputs by their sizes."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._inputs = Inputs(db)

    def load(self, jobs: list[Claimed]) -> Loaded:
        """Return the claimed jobs with all that they need to run, in their order."""
        loaded = _LOADED_WITH_CONTEXT if instruments.refresh() else _LOADED
        if not [job for job in jobs if not job.arguments or job.flags & loaded]:
            return Loaded(jobs)
        jobs = self._with_options(jobs, loaded & _BESIDE_ARGUMENTS)
        large = [job.id for job in jobs if not job.arguments]
        # Hardly any claim has large inputs, and a look at their sizes takes as long as to read small ones.
        if not large:
            small = self._inputs.with_small_inputs(jobs, min(CLAIM_BYTES, MAX_INPUT))
            if small is not None:
                return Loaded(small)
        taking = [job.id for job in jobs if job.flags & Flag.TAKES_INPUT]
        inputs = self._inputs.sizes(taking)
        sizes = self._argument_sizes(large)
        chosen, left, failed, total = [], [], [], 0
        for job in jobs:
            given = inputs.get(job.id, 0)
            size = given + sizes.get(job.id, 0)
            if given > MAX_INPUT:
                failed.append((job, _too_large(given)))
            elif total and size and total + size > CLAIM_BYTES:
                left.append(job)
            else:
                chosen.append(job)
                total += size
        return Loaded(self._inputs.with_inputs(self._with_arguments(chosen)), left, failed)

    def _with_options(self, jobs: list[Claimed], flags: int) -> list[Claimed]:
        """Return the jobs, those that have one of these flags with their options and their context."""
        ids = [job.id for job in jobs if job.flags & flags]
        if not ids:
            return jobs
        rest = f"FROM {TABLE} WHERE {{ids}}"
        rows = self._db.rows("id, options, context", rest, self._db.keys(ids))
        texts = {self._db.to_uuid(key): (options, context) for key, options, context in rows}
        return [_with_texts(job, *texts[job.id]) if job.id in texts else job for job in jobs]

    def _argument_sizes(self, ids: list[UUID]) -> dict[UUID, int]:
        rest = f"FROM {TABLE} WHERE {{ids}} AND arguments IS NOT NULL"
        rows = self._db.rows("id, length(arguments)", rest, self._db.keys(ids)) if ids else []
        return {self._db.to_uuid(key): size for key, size in rows}

    def _with_arguments(self, jobs: list[Claimed]) -> list[Claimed]:
        large = [job.id for job in jobs if not job.arguments]
        if not large:
            return jobs
        rows = self._db.rows("id, arguments", f"FROM {TABLE} WHERE {{ids}}", self._db.keys(large))
        texts = {self._db.to_uuid(key): text for key, text in rows}
        # A row by hand can have none: then its job fails when they are decoded.
        return [
            job._replace(arguments=texts[job.id] or "") if job.id in texts else job for job in jobs
        ]


def _with_texts(job: Claimed, options: str | None, context: str | None) -> Claimed:
    given = (options or "") if job.flags & Flag.OPTIONS else None
    return job._replace(options=given, context=context)


def _too_large(size: int) -> Failure:
    message = (
        f"the results of its parents come to {size:,} bytes; the input of a job can have {MAX_INPUT:,}. "
        "Pass references to the results, such as primary keys or file names."
    )
    return Failure("builtins.ValueError", message, "")
