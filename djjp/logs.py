"""Log records: what those of a job carry, and protection from what users and rows could forge in a log.

Each record of djjp's is one line, without characters for a terminal. Names, messages and reasons come from users
and from jobs. A line end in one would begin a line of the log that looks like any other, and an escape sequence
would act on the terminal that shows it.

This module can be named in `LOGGING`, which Django reads before there are apps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol
from uuid import UUID

from djjp.bounds import one_line, storable

__all__ = ["JobFilter"]

#: The logger of jobs: a record for each attempt that has ended.
JOBS = "djjp.consumer.jobs"
#: The loggers of djjp.
NAMES = (
    *("djjp", "djjp.admin", "djjp.api", "djjp.consumer", JOBS, "djjp.contrib.prometheus"),
    *("djjp.incidents", "djjp.instruments", "djjp.jobs", "djjp.operations", "djjp.outbox"),
    *("djjp.signals", "djjp.supervisor", "djjp.tasks"),
)

# Characters of a traceback.
_LONGEST = 100_000

_formatter = logging.Formatter()


_NO_JOB = {"job_id": None, "job_name": None, "queue": None, "attempt": None}


class Described(Protocol):
    """The name of an attempt of a job: of a claim, or of `current_job()`."""

    @property
    def id(self) -> UUID: ...
    @property
    def name(self) -> str: ...
    @property
    def queue(self) -> str: ...
    @property
    def attempt(self) -> int: ...


def of_job(job: Described) -> dict[str, Any]:
    """Return the attributes of a record about a job, for the argument `extra` of a logger's methods."""
    return {
        "job_id": str(job.id),
        "job_name": one_line(job.name),
        "queue": one_line(job.queue),
        "attempt": job.attempt,
    }


def of_id(id: object, name: str | None = None) -> dict[str, Any]:
    """Return the same of a job of which not more is known than its id, and perhaps its name."""
    return _NO_JOB | {"job_id": one_line(str(id)), "job_name": name and one_line(name)}


#: Returns the job that runs in this thread or task; `djjp.jobs.current` sets it.
running: Callable[[], Described | None] = lambda: None  # noqa: E731  (replaced as a whole)


class JobFilter(logging.Filter):
    """Adds `job_id`, `job_name`, `queue` and `attempt` to each record that is made inside a job.

    All records pass it. On those that are made outside of a job the attributes are None, so that a format can
    name them. An attribute that a record has already is kept, such as those of djjp's own records about a job.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        job = running()
        vars(record).update((_NO_JOB if job is None else of_job(job)) | vars(record))
        return True


def protect() -> None:
    """Have all records of djjp's loggers written so. Handlers and levels are the project's."""
    for name in NAMES:
        logging.getLogger(name).addFilter(_protect)


def _protect(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(map(_safe, record.args))
    if record.exc_info and not record.exc_text:
        # Indented, so that a line of an exception's message does not look like one of the log.
        lines = storable(_traceback(record.exc_info), _LONGEST).split("\n")
        record.exc_text = "\n".join(f"  {one_line(line)}" for line in lines)
    return True


def _traceback(exc_info: Any) -> str:
    try:
        return _formatter.formatException(exc_info)
    except Exception as broken:  # noqa: BLE001  (the job can set any __cause__ or __notes__)
        return f"<the traceback could not be printed: {type(broken).__name__}>"


def _safe(value: Any) -> Any:
    return one_line(str(value)) if isinstance(value, (str, BaseException)) else value
