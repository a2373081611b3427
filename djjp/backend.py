"""`DjjpBackend`: Django's own tasks (DEP 14) on djjp's queue, run by djjp's consumers.

`TASKS = {"default": {"BACKEND": "djjp.backend.DjjpBackend"}}`. This module can be imported before any
model, as modules of tasks can be: modules that need the queue's models are imported on use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from django.apps import apps
from django.core import checks

from djjp.tasks.compat import AnyResult, AnyTask, BaseTaskBackend, InvalidTask, Task

if TYPE_CHECKING:
    from djjp.tasks.job import RegisteredTask

__all__ = ["DjjpBackend", "as_job", "task_options"]

T = TypeVar("T")

#: The attribute of a function in which `task_options` stores them.
_OPTIONS = "_djjp_task_options"

# Tasks that were defined before there were models, for `discover()`.
_early: list[AnyTask] = []


class DjjpBackend(BaseTaskBackend):
    """A backend of `django.tasks`, or of `django_tasks` on Django 5.2.

    Its `OPTIONS` are `modules`, a list of modules in which tasks are defined beside each app's
    `tasks.py`, and any option of `@job` on how a job runs, as the default for all tasks. A class that
    is derived from this one can have other options beside them.
    """

    #: Read by `djjp.apps` from a class in `TASKS`, without importing this module.
    discovers_tasks = True

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)  # type: ignore[arg-type]  # it only reads them
        self.modules: list[str] = list(self.options.get("modules", []))
        #: The defaults for the jobs of tasks; a task's own options override them.
        self.job_options = {k: v for k, v in self.options.items() if k != "modules"}

    def validate_task(self, task: AnyTask) -> None:
        """Refuse a task that could not run, and register any other: consumers run registered tasks only."""
        super().validate_task(task)
        if apps.models_ready:
            self._job(task)
        else:
            _early.append(task)

    def enqueue(  # type: ignore[override]  # the parameters of Django's types are the task's own
        self, task: AnyTask, args: Any, kwargs: Any
    ) -> AnyResult:
        """Enqueue a call of a task, as `run_later()` enqueues that of a job.

        Raises:
            InvalidTask: the task does not fit the backend.
            TypeError: the arguments do not fit the function, or one of them is not JSON.
            QueueUnavailable: the queue's database does not answer, and there is no outbox for the job.
        """
        from djjp.tasks import job as tasks

        self.validate_task(task)
        return tasks.enqueue(self._job(task), args, kwargs, sender=type(self))

    def _job(self, task: AnyTask) -> RegisteredTask:
        """Return the job that stands for a task."""
        from djjp.tasks import job as tasks

        try:
            return tasks.job_for(task, self._job_options() | getattr(task.func, _OPTIONS, {}))
        except (TypeError, ValueError) as error:
            raise InvalidTask(f"{task.module_path}: {error}") from error

    def _job_options(self) -> dict[str, Any]:
        """Return the defaults for jobs; a derived backend can have options of its own beside them."""
        from djjp.tasks import job as tasks

        exact = type(self) is DjjpBackend
        return self.job_options if exact else tasks.own_options(self.job_options)

    def get_result(self, result_id: str) -> AnyResult:
        """Return the result of an enqueued task.

        Raises:
            TaskResultDoesNotExist: there is no such row, or it is a job's and no task's.
            QueueUnavailable: the queue's database does not answer.
        """
        from djjp.tasks import job as tasks

        return tasks.get_result(result_id)

    def check(self, **kwargs: Any) -> list[checks.CheckMessage]:
        """Run the system check of this backend, for Django."""
        found = [*super().check(**kwargs)]
        if not apps.is_installed("djjp"):
            found.append(
                checks.Error(
                    f"TASKS[{self.alias!r}] is a backend of djjp, which is not installed",
                    hint="Add 'djjp' to INSTALLED_APPS; see docs/trouble.md#djjpe030",
                    id="djjp.E030",
                )
            )
            return found
        from djjp.tasks import job as tasks

        try:
            tasks.try_options(self._job_options())
        except (TypeError, ValueError) as error:
            found.append(
                checks.Error(
                    f"TASKS[{self.alias!r}]['OPTIONS']: {error}",
                    hint="OPTIONS takes 'modules', and the options of @job on how a job runs; "
                    "see docs/trouble.md#djjpe031",
                    id="djjp.E031",
                )
            )
        return found


def as_job(task: AnyTask) -> RegisteredTask:
    """Return the job that stands for a task, for features that the framework lacks.

    It binds calls of the task: `run_many(as_job(resize).bind(n) for n in sizes)`.

    Raises:
        InvalidTask: the task is not enqueued to a backend of djjp.
    """
    backend = task.get_backend()
    if not isinstance(backend, DjjpBackend):
        raise InvalidTask(
            f"{task.module_path} is enqueued to {task.backend!r}, which is not djjp's"
        )
    backend.validate_task(task)
    return backend._job(task)  # noqa: SLF001  (its own)


def task_options(**options: Any) -> Callable[[T], T]:
    """Set how the jobs of one task run: `@task_options(max_attempts=5, timeout=30)`, above or below `@task`.

    Args:
        options: options of `@job`, except those that Django's `@task` has too: its `queue_name` and
            `priority`.

    Raises:
        InvalidTask: an option that `@job` does not have, or an invalid value.
    """

    def decorate(target: Any) -> Any:
        task = target if isinstance(target, Task) else None
        function: Any = target if task is None else task.func
        setattr(function, _OPTIONS, getattr(function, _OPTIONS, {}) | options)
        if task is not None:
            task.get_backend().validate_task(task)
        return target

    return decorate


def discover() -> None:
    """Import the modules in which tasks are defined, and register the tasks defined before the models."""
    from importlib import import_module

    from django.utils.module_loading import autodiscover_modules

    import djjp.tasks.job  # noqa: F401  (registers the resolver of tasks' rows, even if no task is defined)
    from djjp.tasks.compat import task_backends

    autodiscover_modules("tasks")
    for backend in task_backends.all():
        for module in backend.modules if isinstance(backend, DjjpBackend) else ():
            import_module(module)
    while _early:
        task = _early.pop()
        task.get_backend().validate_task(task)
