"""Tasks of Django's framework as jobs: the job that stands for a task, and its life.

A task's row is a job's row under the task's module path. Its arguments begin with a mark, which
distinguishes it from the row of a job and keeps what `Task.using()` changed. It runs the task that this
process has registered under that path, and nothing else: for a row no module is imported, unless it is an
installed app's and declares just that task.
"""

from __future__ import annotations

import ast
import inspect
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import Any

from asgiref.sync import sync_to_async
from django.apps import apps
from django.dispatch import Signal

from djjp.engine import Claimed, Outcome
from djjp.exceptions import EncodeError
from djjp.jobs import BoundJob, JobOptions, RegisteredJob, registry
from djjp.jobs.options import SCHEDULE_OPTIONS
from djjp.models import FINISHED
from djjp.tasks import results
from djjp.tasks.compat import (
    AnyResult,
    AnyTask,
    Task,
    TaskContext,
    normalize_json,
    task_backends,
    task_enqueued,
    task_finished,
    task_started,
)

logger = logging.getLogger("djjp.tasks")


@dataclass(eq=False)
class RegisteredTask(RegisteredJob[..., Any]):
    """The job that stands for a task: its function, with the options of `@job`.

    Attributes:
        task: the task, with the queue, priority and time of the jobs made by this.
        given: the options of `@job` that were given for it.
    """

    task: AnyTask
    given: Mapping[str, Any]

    @cached_property
    def signature(self) -> inspect.Signature:
        """The parameters that a caller fills. Those of a decorator between the function and `@task` count."""
        signature = inspect.signature(self.function, follow_wrapped=False)
        if not self.task.takes_context:
            return signature
        first, *others = signature.parameters.values()
        if first.kind is first.VAR_POSITIONAL:
            return signature
        return signature.replace(parameters=others)

    def bind(self, *args: Any, **kwargs: Any) -> BoundJob:
        """Return the call without enqueueing it, its arguments made JSON as the framework makes them.

        Raises:
            TypeError: the arguments do not fit the function.
            EncodeError: an argument that is not JSON; the message names it.
        """
        try:
            args, kwargs = normalize_json(args), normalize_json(kwargs)
        except (TypeError, ValueError, RecursionError):
            self._explain(args, kwargs)
            raise
        bound = super().bind(*args, **kwargs)
        bound.arguments = results.marked(bound.arguments, self.task)
        return bound

    def _explain(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise the error that names the argument which is not JSON."""
        self.signature.bind(*args, **kwargs)
        named = zip(
            [*self._positional_names(len(args)), *kwargs], [*args, *kwargs.values()], strict=True
        )
        for name, value in named:
            try:
                normalize_json(value)
            except RecursionError:
                why = "it is nested too deeply, or contains itself"
                raise EncodeError(f"cannot encode {name}: {why}") from None
            except TypeError as error:
                raise EncodeError(f"cannot encode {name}: {error}") from None
            except ValueError as error:
                raise ValueError(f"cannot encode {name}: {error}") from None

    # In a consumer

    wants_outcome = True

    def callable_for(self, claimed: Claimed, consumer: str) -> Callable[..., Any]:
        if not results.is_marked(claimed.arguments):
            return self.function  # a row that was enqueued when the function was a job
        return partial(self._arun if self.is_coroutine else self._run, claimed, consumer)

    def _run(self, claimed: Claimed, consumer: str, /, *args: Any, **kwargs: Any) -> Any:
        context = self._start(claimed, consumer, args, kwargs)
        return normalize_json(self.function(*context, *args, **kwargs))

    async def _arun(self, claimed: Claimed, consumer: str, /, *args: Any, **kwargs: Any) -> Any:
        context = await sync_to_async(self._start)(claimed, consumer, args, kwargs)
        return normalize_json(await self.function(*context, *args, **kwargs))

    def _start(self, claimed: Claimed, consumer: str, args: Any, kwargs: Any) -> list[Any]:
        """Send the signal `task_started`; return the arguments that the task gets before its own."""
        started = results.started(self.task, claimed, consumer, args, kwargs)
        _send(task_started, started)
        return [TaskContext(task_result=started)] if self.task.takes_context else []

    def on_finished(self, outcome: Outcome, consumer: str) -> None:
        if outcome.state in FINISHED and results.is_marked(outcome.claimed.arguments):
            _send(task_finished, results.ended(self.task, outcome, consumer))


def _send(signal: Signal, result: AnyResult) -> None:
    """Send a signal whose receivers can change nothing; their exceptions are logged."""
    try:
        signal.send_robust(sender=type(result.task.get_backend()), task_result=result)
    except (Exception, SystemExit):  # Django lets a receiver's SystemExit pass
        logger.exception("task %s: a signal receiver raised", result.id)


# From a task to its job


def job_for(task: AnyTask, options: Mapping[str, Any]) -> RegisteredTask:
    """Return the job that stands for a task; register it, if it was not yet.

    Raises:
        TypeError, ValueError: an option that `@job` does not have, or does not take.
        JobNameTaken: a job, or another function, has the task's path for its name.
    """
    known = registry.find(task.module_path)
    if (
        not isinstance(known, RegisteredTask)
        or known.function is not task.func
        or known.given != options
        or known.task.takes_context != task.takes_context
    ):
        known = _job(task, options)
        registry.add(known)
    if known.task is task:
        return known
    variant = known._with(_task_options(task))  # noqa: SLF001  (its subclass's own)
    assert isinstance(variant, RegisteredTask)  # noqa: S101  (a copy has the class of its original)
    variant.task = task
    return variant


def _job(task: AnyTask, options: Mapping[str, Any]) -> RegisteredTask:
    if theirs := {"name", "queue", "priority", "run_after"} & {*options}:
        raise TypeError(f"{', '.join(sorted(theirs))}: an option of @task or of its using()")
    if scheduled := {*SCHEDULE_OPTIONS} & {*options}:
        raise TypeError(
            f"{', '.join(sorted(scheduled))}: a task has no schedule in the code; make one in the admin, or "
            "have a @job with a schedule enqueue it"
        )
    all_options = JobOptions(task.module_path, **_task_options(task), **options)
    return RegisteredTask(task.func, all_options, task=task, given=dict(options))


def _task_options(task: AnyTask) -> dict[str, Any]:
    """Return the options of `@job` that come from the task, not from `task_options`."""
    return {
        "queue": task.queue_name,
        "priority": int(task.priority),
        "run_after": task.run_after,
    }


def try_options(options: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError for options that the job of no task takes."""
    _job(results.unchecked(_example, {}), options)


def _example() -> None:
    """Stand in for a task's function in `try_options`."""


def enqueue(job: RegisteredTask, args: Any, kwargs: Any, *, sender: type) -> AnyResult:
    """Enqueue a call of a task, and send the signal `task_enqueued`."""
    handle = job.bind(*args, **kwargs).run_later()
    result = results.enqueued(job.task, handle.id, args, kwargs)
    task_enqueued.send_robust(sender=sender, task_result=result)
    return result


def get_result(result_id: str) -> AnyResult:
    """Return the result of an enqueued task; raise TaskResultDoesNotExist if there is none."""
    return results.load(result_id, lambda name, arguments: resolve(name, arguments).task)


# From a row to its task


def resolve(name: str, arguments: str) -> RegisteredTask:
    """Return the task that a marked row names; if there is none, a task that fails with the reason."""
    known = registry.find(name)
    if isinstance(known, RegisteredTask):
        return known
    module, _, function = name.rpartition(".")
    try:
        if known is not None:
            raise AttributeError(f"{name} is a job now, and no task")
        if module not in sys.modules:
            _require_declared(module, function)
            import_module(module)
        return _in_module(name, arguments)
    except Exception as error:  # noqa: BLE001  (a module can raise anything; it is the row's failure)
        return _missing(name, error)


def _in_module(name: str, arguments: str) -> RegisteredTask:
    """Return the task of an imported module."""
    module, _, function = name.rpartition(".")
    task = getattr(sys.modules[module], function, None)
    if not isinstance(task, Task) or task.module_path != name:
        raise AttributeError(f"{module} has no task {function!r}")
    known = registry.find(name)
    if known is None:
        # It is defined for another backend; the backend that it was enqueued to registers it.
        variant = results.as_enqueued(task, arguments)
        task_backends[variant.backend].validate_task(variant)
        known = registry.find(name)
    if not isinstance(known, RegisteredTask):
        raise AttributeError(f"{name} is no task of a backend of djjp")  # noqa: TRY004  (the attribute is missing)
    return known


def _require_declared(module: str, function: str) -> None:
    """Raise unless the module is an installed app's and its code decorates this function.

    So the code decides what is imported, and nobody who can only write a row.
    """
    for app in apps.get_app_configs():
        inside = module.removeprefix(f"{app.name}.")
        if inside == module or not all(part.isidentifier() for part in inside.split(".")):
            continue
        path = Path(app.path, *inside.split("."))
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                if not _declares(file, function):
                    raise AttributeError(f"{module} has no task {function!r}")
                return
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    raise ModuleNotFoundError(
        f"{module!r} is not imported in this process, and for a row only modules of installed apps are; "
        "name it in OPTIONS['modules'] of the backend",
        name=module,
    )


def _declares(file: Path, function: str) -> bool:
    return any(
        isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.name == function
        and node.decorator_list
        for node in ast.walk(ast.parse(file.read_bytes()))
    )


def _missing(name: str, error: Exception) -> RegisteredTask:
    """Return a task that stands in for a missing one, and fails."""

    def function(*args: Any, **kwargs: Any) -> None:
        raise error

    function.__module__, _, function.__qualname__ = name.rpartition(".")
    function.__name__ = function.__qualname__
    task = results.unchecked(function, {})
    return RegisteredTask(function, JobOptions(name), task=task, given={})


registry.register_resolver(results.is_marked, resolve)
