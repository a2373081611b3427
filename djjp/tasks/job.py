"""Tasks of Django's framework as jobs: the job that stands for a task, and its life.

A task's row is a job's row under the task's module path. Its arguments begin with a mark, which tells
it from the row of a job and keeps what `Task.using()` changed. It runs by the task that this process
has registered under that path, and by nothing else: a row makes nothing be imported, unless an
installed app declares just that task.
"""

from __future__ import annotations

import ast
import inspect
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import Any

from asgiref.sync import sync_to_async
from django.apps import apps
from django.dispatch import Signal

from djjp import schedules
from djjp.engine import Claimed, Outcome
from djjp.exceptions import EncodeError
from djjp.jobs import BoundJob, RegisteredJob, registry
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

    task: AnyTask = None  # type: ignore[assignment]  # RegisteredJob's last fields have defaults
    given: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def signature(self) -> inspect.Signature:
        """What a caller passes. A decorator between the function and `@task` is taken at its word."""
        signature = inspect.signature(self.function, follow_wrapped=False)
        if not self.task.takes_context:
            return signature
        first, *others = signature.parameters.values()
        if first.kind is first.VAR_POSITIONAL:
            return signature
        return signature.replace(parameters=others)

    def bind(self, *args: Any, **kwargs: Any) -> BoundJob:
        """A call that is not made yet, its arguments made JSON as the framework makes them.

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
        return replace(bound, arguments=results.marked(bound.arguments, self.task))

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

    tells = True

    def function_for(self, claimed: Claimed, consumer: str) -> Callable[..., Any]:
        if not results.is_marked(claimed.arguments):
            return self.function  # a row that was enqueued when the function was a job
        return partial(self._arun if self.is_coroutine else self._run, claimed, consumer)

    def _run(self, claimed: Claimed, consumer: str, /, *args: Any, **kwargs: Any) -> Any:
        context = self._begin(claimed, consumer, args, kwargs)
        return normalize_json(self.function(*context, *args, **kwargs))

    async def _arun(self, claimed: Claimed, consumer: str, /, *args: Any, **kwargs: Any) -> Any:
        context = await sync_to_async(self._begin)(claimed, consumer, args, kwargs)
        return normalize_json(await self.function(*context, *args, **kwargs))

    def _begin(self, claimed: Claimed, consumer: str, args: Any, kwargs: Any) -> list[Any]:
        """Say that the task starts; returns what it gets before its arguments."""
        begun = results.begun(self.task, claimed, consumer, args, kwargs)
        _tell(task_started, begun)
        return [TaskContext(task_result=begun)] if self.task.takes_context else []

    def ended(self, outcome: Outcome, consumer: str) -> None:
        if outcome.state in FINISHED and results.is_marked(outcome.claimed.arguments):
            _tell(task_finished, results.ended(self.task, outcome, consumer))


def _tell(signal: Signal, result: AnyResult) -> None:
    """Send a signal whose receivers can change nothing; what they raise is logged."""
    try:
        signal.send_robust(sender=type(result.task.get_backend()), task_result=result)
    except (Exception, SystemExit):  # Django lets a receiver's SystemExit pass
        logger.exception("task %s: not all were told of it", result.id)


# From a task to its job


def job_for(task: AnyTask, options: Mapping[str, Any]) -> RegisteredTask:
    """The job that stands for a task; it is registered, if it was not yet.

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
    return replace(
        known,
        task=task,
        queue=task.queue_name,
        priority=int(task.priority),
        run_after=task.run_after,
    )


def _job(task: AnyTask, options: Mapping[str, Any]) -> RegisteredTask:
    theirs = {"function", "name", "queue", "priority", "run_after", "task", "given"} & {*options}
    if theirs:
        raise TypeError(f"{', '.join(sorted(theirs))}: to be said to @task or to its using()")
    if scheduled := {*schedules.OPTIONS} & {*options}:
        raise TypeError(
            f"{', '.join(sorted(scheduled))}: a task has no schedule in the code; make one in the admin, or "
            "have a @job with a schedule enqueue it"
        )
    return RegisteredTask(
        function=task.func,
        name=task.module_path,
        queue=task.queue_name,
        priority=int(task.priority),
        run_after=task.run_after,
        task=task,
        given=dict(options),
        **options,
    )


def try_options(options: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError for options that no task's job would take."""
    _job(results.unchecked(_example, {}), options)


def _example() -> None:
    """A function for `try_options` to try them on."""


def enqueue(job: RegisteredTask, args: Any, kwargs: Any, *, sender: type) -> AnyResult:
    """Enqueue a call of a task, and say so by the signal `task_enqueued`."""
    handle = job.bind(*args, **kwargs).run_later()
    result = results.enqueued(job.task, handle.id, args, kwargs)
    task_enqueued.send_robust(sender=sender, task_result=result)
    return result


def get_result(result_id: str) -> AnyResult:
    """What the queue knows of an enqueued task; raises TaskResultDoesNotExist."""
    return results.load(result_id, lambda name, arguments: found(name, arguments).task)


# From a row to its task


def found(name: str, arguments: str) -> RegisteredTask:
    """The task that a marked row names. Where there is none, one that fails with the reason."""
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
    except Exception as error:  # noqa: BLE001  (a module may raise anything; it is the row's failure)
        return _gone(name, error)


def _in_module(name: str, arguments: str) -> RegisteredTask:
    """The task of a module that is imported."""
    module, _, function = name.rpartition(".")
    task = getattr(sys.modules[module], function, None)
    if not isinstance(task, Task) or task.module_path != name:
        raise AttributeError(f"{module} has no task {function!r}")
    known = registry.find(name)
    if known is None:
        # It is defined for another backend; the one that it was enqueued to takes it up.
        variant = results.as_enqueued(task, arguments)
        task_backends[variant.backend].validate_task(variant)
        known = registry.find(name)
    if not isinstance(known, RegisteredTask):
        raise AttributeError(f"{name} is no task of a backend of djjp")  # noqa: TRY004  (it is what is missing)
    return known


def _require_declared(module: str, function: str) -> None:
    """Let a module be imported only if it is an installed app's, and its code decorates this function.

    So the code says what is imported, and not whoever can write a row.
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
        f"{module!r} is imported by nothing here, and for a row nothing is imported but an installed "
        "app's module; name it in OPTIONS['modules'] of the backend",
        name=module,
    )


def _declares(file: Path, function: str) -> bool:
    return any(
        isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.name == function
        and node.decorator_list
        for node in ast.walk(ast.parse(file.read_bytes()))
    )


def _gone(name: str, error: Exception) -> RegisteredTask:
    """A task that stands in for one that is not there."""

    def function(*args: Any, **kwargs: Any) -> None:
        raise error

    function.__module__, _, function.__qualname__ = name.rpartition(".")
    function.__name__ = function.__qualname__
    return RegisteredTask(function, name, task=results.unchecked(function, {}))


registry.tasks = registry.Tasks(results.is_marked, found)
