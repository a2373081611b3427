"""Tasks of Django's framework as jobs: the job that stands for a task, its enqueue and its execution.

A task's row is a job's row under the task's module path. Its arguments begin with a mark, which
distinguishes it from the row of a job and keeps what `Task.using()` changed. It runs the task that this
process has registered under that path, and nothing else: for a row no module is imported, unless it is an
installed app's, or one that `OPTIONS["modules"]` names.
"""

from __future__ import annotations

import copyreg
import inspect
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module
from typing import Any

from asgiref.sync import sync_to_async
from django.apps import apps
from django.dispatch import Signal

from djjp import logs
from djjp.durations import to_datetime
from djjp.engine import Claimed, Outcome
from djjp.exceptions import EncodeError
from djjp.ids import made_at
from djjp.jobs import BoundJob, JobOptions, RegisteredJob, registry
from djjp.jobs import enqueue as sending
from djjp.jobs.bound import handle_of
from djjp.jobs.functions import CallSignature, require_runnable
from djjp.jobs.options import OPTIONS, SCHEDULE_OPTIONS
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


@dataclass(eq=False, repr=False)
class RegisteredTask(RegisteredJob[..., Any]):
    """The job that stands for a task: its function, with the options of `@job`.

    Attributes:
        task: the task, with the queue, priority and time of the jobs made by this.
        given: the options of `@job` that were given for it.
    """

    task: AnyTask
    given: Mapping[str, Any]

    @cached_property
    def signature(self) -> CallSignature:
        """The parameters that a caller fills. Those of a decorator between the function and `@task` count."""
        signature = inspect.signature(self.function, follow_wrapped=False)
        if self.task.takes_context:
            first, *others = signature.parameters.values()
            if first.kind is not first.VAR_POSITIONAL:
                signature = signature.replace(parameters=others)
        return CallSignature.of(self.function, signature, self.name)

    def bind(self, *args: Any, **kwargs: Any) -> BoundJob:
        """Return the call without enqueueing it, with its arguments converted to JSON as the framework does.

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
        known = registry.find(self.name)
        registered = known.task if isinstance(known, RegisteredTask) else None
        bound.arguments = results.marked(bound.arguments, self.task, registered)
        return bound

    def _explain(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise the error that names the function, and the argument which is not JSON."""
        self.signature.bind(*args, **kwargs)
        named = zip(
            [*self.signature.positional_names(len(args)), *kwargs],
            [*args, *kwargs.values()],
            strict=True,
        )
        for name, value in named:
            try:
                normalize_json(value)
            except RecursionError:
                why = "it is nested too deeply, or contains itself"
                raise self.signature.named(EncodeError(f"cannot encode {name}: {why}")) from None
            except TypeError as error:
                refusal = EncodeError(f"cannot encode {name}: {error}")
                raise self.signature.named(refusal) from None
            except ValueError as error:
                raise self.signature.named(ValueError(f"cannot encode {name}: {error}")) from None

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
        about = logs.of_id(result.id, result.task.module_path)
        logger.exception("task %s: a signal receiver raised", result.id, extra=about)


# From a task to its job


def job_for(task: AnyTask, options: Mapping[str, Any]) -> RegisteredTask:
    """Return the job that stands for a task; register it, if it was not yet.

    Raises:
        TypeError, ValueError: an option that `@job` does not have, or an invalid value.
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
    variant = known._with(_task_options(task))  # noqa: SLF001  (a private method of its base class)
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
    if unknown := {*options} - {*OPTIONS}:
        raise TypeError(f"{', '.join(sorted(unknown))}: no option of @job")
    all_options = JobOptions(task.module_path, **_task_options(task), **options)
    require_runnable(task.func, named=False)
    return RegisteredTask(task.func, all_options, task=task, given=dict(options))


def _task_options(task: AnyTask) -> dict[str, Any]:
    """Return the options of `@job` that come from the task, not from `task_options`."""
    return {
        "queue": task.queue_name,
        "priority": int(task.priority),
        "run_after": task.run_after,
    }


def try_options(options: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError for options that no task can have."""
    _job(results.unchecked(_example, {}), options)


def own_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the options of a derived backend that are djjp's; the others are for its own code."""
    refused = {"name", "queue", "priority", "run_after", *SCHEDULE_OPTIONS}
    known = {*OPTIONS} - refused
    return {name: value for name, value in options.items() if name in known}


def _example() -> None:
    """Stand in for a task's function in `try_options`."""


def enqueue(job: RegisteredTask, args: Any, kwargs: Any, *, sender: type) -> AnyResult:
    """Enqueue a call of a task, and send the signal `task_enqueued`; under `inline()` run it after that."""
    bound = job.bind(*args, **kwargs)
    with sending.sender.held_back() as runs_here:
        row = bound.to_row()
        handle = handle_of(row, sending.enqueue([row], bound.options.database))
        at = row.created_at if handle.id == row.id else made_at(handle.id)
        result = results.enqueued(job.task, handle.id, args, kwargs, to_datetime(at))
        task_enqueued.send_robust(sender=sender, task_result=result)
    if runs_here:
        result.refresh()
    return result


def get_result(result_id: str) -> AnyResult:
    """Return the result of an enqueued task; raise TaskResultDoesNotExist if there is none."""
    return results.load(result_id, lambda name, arguments: resolve(name, arguments).task)


# From a row to its task


def resolve(name: str, arguments: str) -> RegisteredTask:
    """Return the task that a marked row names; if it is missing, a task that fails with the reason."""
    known = registry.find(name)
    if isinstance(known, RegisteredTask):
        return known
    module = name.rpartition(".")[0]
    try:
        if known is not None:
            raise AttributeError(f"{name} is a job now, and no task")
        if module not in sys.modules:
            _require_own(module)
            import_module(module)
        return _in_module(name, arguments)
    except Exception as error:  # noqa: BLE001  (a module can raise anything; it is the row's failure)
        return _missing(name, error)


def _in_module(name: str, arguments: str) -> RegisteredTask:
    """Return the task of an imported module."""
    known = registry.find(name)
    if isinstance(known, RegisteredTask):  # its module was imported just now
        return known
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


def _require_own(module: str) -> None:
    """Raise unless the module is inside an installed app, or inside one that `OPTIONS["modules"]` names."""
    backends = [each for each in task_backends.all() if hasattr(each, "modules")]
    named = {name for backend in backends for name in backend.modules}
    parts = module.split(".")
    packages = {".".join(parts[: n + 1]) for n in range(len(parts))}
    installed = {app.name for app in apps.get_app_configs()}
    if not packages & (named | installed):
        raise ModuleNotFoundError(
            f"{module!r} is not imported in this process, and for a row only modules of installed apps are; "
            "name it in OPTIONS['modules'] of the backend",
            name=module,
        )
    # A program is no module: it would be run.
    if "__main__" in parts or not all(part.isidentifier() for part in parts):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)


def _missing(name: str, error: Exception) -> RegisteredTask:
    """Return a task that stands in for a missing one, and fails."""

    def function(*args: Any, **kwargs: Any) -> None:
        raise error

    function.__module__, _, function.__qualname__ = name.rpartition(".")
    function.__name__ = function.__qualname__
    task = results.unchecked(function, {})
    return RegisteredTask(function, JobOptions(name), task=task, given={})


copyreg.pickle(RegisteredTask, registry.reduced)
registry.register_resolver(results.is_marked, resolve)
