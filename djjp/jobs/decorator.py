"""`@job`: makes a function a job, and registers it under its name."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, ParamSpec, TypeVar, Unpack, overload

from djjp.jobs import registry
from djjp.jobs.options import JobOptions, JobOptionsDict
from djjp.jobs.registered import RegisteredJob

P = ParamSpec("P")
R = TypeVar("R")


@overload
def job(function: Callable[P, R], /) -> RegisteredJob[P, R]: ...
@overload
def job(
    **options: Unpack[JobOptionsDict],
) -> Callable[[Callable[P, R]], RegisteredJob[P, R]]: ...
def job(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function or coroutine function a job: `@job` or `@job(name=...)`.

    Args:
        options: the fields of `djjp.jobs.JobOptions`, which says what each is. `run_after` and
            `database` are for `using()`.

    Raises:
        JobNameTaken: another function has the name.
        ValueError, TypeError: an option is not what it must be.
    """
    if function is None:
        return lambda decorated: _register(decorated, options)
    return _register(function, options)


def _register(function: Callable[P, R], given: dict[str, Any]) -> RegisteredJob[P, R]:
    if not isinstance(function, FunctionType):
        raise TypeError(f"@job takes a function or a coroutine function, not {function!r}")
    options = dict(given)
    if options.get("name") is None:
        options["name"] = f"{function.__module__}.{function.__qualname__}"
    registered: RegisteredJob[P, R] = RegisteredJob(function, JobOptions(**options))
    registry.add(registered)
    return registered
