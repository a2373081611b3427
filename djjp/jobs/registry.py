"""The registered jobs by name: the only code that a row of the queue can run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from djjp.exceptions import JobNameTaken, JobNotRegistered
from djjp.jobs.registered import RegisteredJob

_jobs: dict[str, RegisteredJob[..., Any]] = {}

#: The first clash of names met while the apps' `jobs.py` were imported, for the system check.
conflict: JobNameTaken | None = None


class _Resolver(NamedTuple):
    """A pair of functions that recognize rows by their arguments and find the jobs of these rows."""

    recognizes: Callable[[str], bool]
    resolve: Callable[[str, str], RegisteredJob[..., Any]]


_resolver: _Resolver | None = None


def register_resolver(
    recognizes: Callable[[str], bool], resolve: Callable[[str, str], RegisteredJob[..., Any]]
) -> None:
    """Have rows that are not of `@job` functions found by something else: the backend of Django's tasks.

    Args:
        recognizes: returns whether a row with these arguments is its own.
        resolve: returns the job of such a row by its name and arguments; for a row whose code is gone, a
            job that fails with the reason.
    """
    global _resolver
    _resolver = _Resolver(recognizes, resolve)


def add(job: RegisteredJob[..., Any]) -> None:
    """Register a job under its name.

    Raises:
        JobNameTaken: another function has the name. The same function defined anew, as by a module
            that is loaded twice, replaces the earlier one.
    """
    taken = _jobs.get(job.name)
    if taken is not None and type(taken) is not type(job):
        raise JobNameTaken(f"{job.name!r} is a job and a task: keep one of @job and @task")
    if taken is not None and _location(taken) != _location(job):
        raise JobNameTaken(
            f"two jobs are named {job.name!r}: {_described(taken)} and {_described(job)}; "
            "give one of them another name with @job(name=...)"
        )
    _jobs[job.name] = job


def find(name: str) -> RegisteredJob[..., Any] | None:
    """Return the job that is registered under this name, if there is one."""
    return _jobs.get(name)


def names() -> list[str]:
    """Return the names of all registered jobs, in order."""
    return sorted(_jobs)


def get(name: str, arguments: str = "") -> RegisteredJob[..., Any]:
    """Return the job that a row with this name and these arguments runs.

    Raises:
        JobNotRegistered: no job has this name.
    """
    if _resolver is not None and _resolver.recognizes(arguments):
        return _resolver.resolve(name, arguments)
    try:
        return _jobs[name]
    except KeyError:
        raise JobNotRegistered(name) from None


def knows(name: str, arguments: str = "") -> bool:
    """Return whether this process runs such a row. It runs every task's: one whose code is gone fails here."""
    return name in _jobs or (_resolver is not None and _resolver.recognizes(arguments))


def _location(job: RegisteredJob[..., Any]) -> tuple[str, str, int]:
    function = job.function
    return function.__module__, function.__qualname__, function.__code__.co_firstlineno


def _described(job: RegisteredJob[..., Any]) -> str:
    module, qualname, line = _location(job)
    return f"{module}.{qualname} (line {line})"
