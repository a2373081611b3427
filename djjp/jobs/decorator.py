"""`@job`: makes a function a job, and registers it under its name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from types import FunctionType
from typing import Any, Unpack, overload

from djjp.jobs import registry
from djjp.jobs.functions import require_runnable
from djjp.jobs.hints import OF_OPTIONS
from djjp.jobs.options import OPTIONS, JobOptions, JobOptionsDict
from djjp.jobs.registered import RegisteredJob
from djjp.jobs.typevars import P, R


@overload
def job(function: Callable[P, R], /) -> RegisteredJob[P, R]: ...
@overload
def job(
    **options: Unpack[JobOptionsDict],
) -> Callable[[Callable[P, R]], RegisteredJob[P, R]]: ...
def job(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function or coroutine function a job: `@job` or `@job(name=...)`.

    Args:
        options: the fields of `djjp.jobs.JobOptions`, which describes each. `run_after` and
            `database` are for `using()`.

    Raises:
        JobNameTaken: another function has the name.
        ValueError, TypeError: an option has an invalid value.
        TypeError: no consumer could find the function, or calling it would run nothing: it is of `__main__`,
            a method, a generator function, or has no name of its own.
    """
    if function is None:
        return lambda decorated: _register(decorated, options)
    return _register(function, options)


def _register(function: Callable[P, R], given: dict[str, Any]) -> RegisteredJob[P, R]:
    if not isinstance(function, FunctionType):
        raise TypeError(_no_function(function))
    for option in given:
        if option not in OPTIONS:
            raise TypeError(_unknown(option))
    options = dict(given)
    named = options.get("name") is not None
    if not named:
        options["name"] = f"{function.__module__}.{function.__qualname__}"
    valid = JobOptions(**options)
    require_runnable(function, named=named)
    registered: RegisteredJob[P, R] = RegisteredJob(function, valid)
    registry.add(registered)
    return registered


def _no_function(given: object) -> str:
    hint = f"; a name is given as @job(name={given!r})" if isinstance(given, str) else ""
    return f"@job takes a function or a coroutine function, not {given!r}{hint}"


def _unknown(option: str) -> str:
    close = difflib.get_close_matches(option, OPTIONS, n=1, cutoff=0.7)
    right = OF_OPTIONS.get(option) or next(iter(close), None)
    return f"@job has no option {option!r}" + (f"; did you mean {right!r}?" if right else "")
