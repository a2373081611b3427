"""The registered jobs by name: the only code that a row of the queue can run."""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Set
from pickle import PicklingError
from typing import Any, NamedTuple

from djjp import signals
from djjp.exceptions import JobNameTaken, JobNotRegistered
from djjp.jobs.bound import BoundJob
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
    """Set how the jobs of rows are found that no `@job` function enqueued: those of Django's tasks.

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


signals.job_named = find


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


def knows(names: Set[str]) -> bool:
    """Return whether jobs are registered under all of these names."""
    return names <= _jobs.keys()


def can_run(name: str, arguments: str = "") -> bool:
    """Return whether this process can run such a row.

    It can run the row of any task: if the task's code is gone, the job fails with that reason.
    """
    return name in _jobs or (_resolver is not None and _resolver.recognizes(arguments))


# Pickles of jobs and bound calls hold the name, as a row of the queue does


def reduced(job: RegisteredJob[..., Any]) -> tuple[Any, ...]:
    """Return what `pickle` needs of a job.

    Raises:
        PicklingError: this is not the job that is registered under its name, or it is a task's with other options.
    """
    registered = _registered(job.name)
    if registered.function is not job.function:
        raise PicklingError(
            f"job {job.name!r} cannot be pickled: another function has its name now"
        )
    changes = job.options.changes_from(registered.options)
    if changes and type(job) is not RegisteredJob:
        raise PicklingError(
            f"task {job.name!r} with other options cannot be pickled; bind its call"
        )
    return _restored, (job.name, changes)


def reduced_call(bound: BoundJob) -> tuple[Any, ...]:
    """Return what `pickle` needs of a bound call; raise PicklingError as `reduced`."""
    changes = bound.options.changes_from(_registered(bound.options.name).options)
    fields = (bound.arguments, bound.takes_input, bound.missing_first)
    return _restored_call, (bound.options.name, changes, *fields)


def _registered(name: str) -> RegisteredJob[..., Any]:
    if name not in _jobs:
        raise PicklingError(f"job {name!r} cannot be pickled: it is not registered under its name")
    return _jobs[name]


def _restored(name: str, changes: dict[str, Any]) -> RegisteredJob[..., Any]:
    job = get(name)
    return job._with(changes) if changes else job  # noqa: SLF001  (a private method of its own package)


def _restored_call(
    name: str, changes: dict[str, Any], arguments: str, takes_input: bool, missing_first: bool
) -> BoundJob:
    job = get(name, arguments)
    options = job.options.replaced(**changes)
    return BoundJob(options, job.signature, arguments, takes_input, missing_first)


copyreg.pickle(RegisteredJob, reduced)
copyreg.pickle(BoundJob, reduced_call)


def _location(job: RegisteredJob[..., Any]) -> tuple[str, str, int]:
    function = job.function
    return function.__module__, function.__qualname__, function.__code__.co_firstlineno


def _described(job: RegisteredJob[..., Any]) -> str:
    module, qualname, line = _location(job)
    return f"{module}.{qualname} (line {line})"
