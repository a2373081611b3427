"""The registered job functions by name: the only code that a row of the queue can run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from djjp.exceptions import JobNameTaken, JobNotRegistered

if TYPE_CHECKING:
    from djjp.jobs import RegisteredJob

_jobs: dict[str, RegisteredJob[..., Any]] = {}

#: The first clash of names met while the apps' `jobs.py` were imported, for the system check.
conflict: JobNameTaken | None = None


class Tasks(NamedTuple):
    """How rows of tasks are told and what they run; there once a backend of tasks is in use.

    Attributes:
        marked: whether a row's arguments are those of a task.
        found: the task of a row's name and arguments; for one that is gone, one that fails and says so.
    """

    marked: Callable[[str], bool]
    found: Callable[[str, str], RegisteredJob[..., Any]]


tasks: Tasks | None = None


def add(job: RegisteredJob[..., Any]) -> None:
    """Register a job under its name.

    Raises:
        JobNameTaken: another function has the name. The same function defined anew, as by a module
            that is loaded twice, takes its own place.
    """
    taken = _jobs.get(job.name)
    if taken is not None and type(taken) is not type(job):
        raise JobNameTaken(f"{job.name!r} is a job and a task: keep one of @job and @task")
    if taken is not None and _place(taken) != _place(job):
        raise JobNameTaken(
            f"two jobs are named {job.name!r}: {_where(taken)} and {_where(job)}; "
            "give one of them another name with @job(name=...)"
        )
    _jobs[job.name] = job


def find(name: str) -> RegisteredJob[..., Any] | None:
    """What is registered under this name."""
    return _jobs.get(name)


def names() -> list[str]:
    """The names of all that is registered, in order."""
    return sorted(_jobs)


def get(name: str, arguments: str = "") -> RegisteredJob[..., Any]:
    """What a row with this name and these arguments runs.

    Raises:
        JobNotRegistered: no job has this name.
    """
    if tasks is not None and tasks.marked(arguments):
        return tasks.found(name, arguments)
    try:
        return _jobs[name]
    except KeyError:
        raise JobNotRegistered(name) from None


def knows(name: str, arguments: str = "") -> bool:
    """Whether such a row is for this process. A task's always is: one that is gone fails here."""
    return name in _jobs or (tasks is not None and tasks.marked(arguments))


def _place(job: RegisteredJob[..., Any]) -> tuple[str, str, int]:
    function = job.function
    return function.__module__, function.__qualname__, function.__code__.co_firstlineno


def _where(job: RegisteredJob[..., Any]) -> str:
    module, qualname, line = _place(job)
    return f"{module}.{qualname} (line {line})"
