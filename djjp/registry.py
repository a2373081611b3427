"""The registered job functions by name: the only code that a row of the queue can run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from djjp.exceptions import JobNameTaken, JobNotRegistered

if TYPE_CHECKING:
    from djjp.jobs import RegisteredJob

_jobs: dict[str, RegisteredJob[..., Any]] = {}

#: The first clash of names met while the apps' `jobs.py` were imported, for the system check.
conflict: JobNameTaken | None = None


def add(job: RegisteredJob[..., Any]) -> None:
    """Register a job under its name.

    Raises:
        JobNameTaken: another function has the name. The same function defined anew, as by a module
            that is loaded twice, takes its own place.
    """
    taken = _jobs.get(job.name)
    if taken is not None and _place(taken) != _place(job):
        raise JobNameTaken(
            f"two jobs are named {job.name!r}: {_where(taken)} and {_where(job)}; "
            "give one of them another name with @job(name=...)"
        )
    _jobs[job.name] = job


def get(name: str) -> RegisteredJob[..., Any]:
    """The job of this name; raises JobNotRegistered."""
    try:
        return _jobs[name]
    except KeyError:
        raise JobNotRegistered(name) from None


def knows(name: str) -> bool:
    return name in _jobs


def _place(job: RegisteredJob[..., Any]) -> tuple[str, str, int]:
    function = job.function
    return function.__module__, function.__qualname__, function.__code__.co_firstlineno


def _where(job: RegisteredJob[..., Any]) -> str:
    module, qualname, line = _place(job)
    return f"{module}.{qualname} (line {line})"
