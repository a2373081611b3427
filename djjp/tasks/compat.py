"""Django's task framework: `django.tasks`, or on Django 5.2 its backport `django_tasks`.

The choice is made once, when this module is imported. The rest of djjp imports the framework's names
from here, so that one backend serves both.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

import django

__all__ = [
    "PACKAGE",
    "AnyResult",
    "AnyTask",
    "BaseTaskBackend",
    "InvalidTask",
    "Task",
    "TaskContext",
    "TaskError",
    "TaskResult",
    "TaskResultDoesNotExist",
    "TaskResultStatus",
    "normalize_json",
    "task_backends",
    "task_enqueued",
    "task_finished",
    "task_started",
]

#: The name of the package in use.
PACKAGE = "django.tasks" if django.VERSION >= (6, 0) else "django_tasks"

if TYPE_CHECKING:
    from django.tasks import task_backends
    from django.tasks.backends.base import BaseTaskBackend
    from django.tasks.base import Task, TaskContext, TaskError, TaskResult, TaskResultStatus
    from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist
    from django.tasks.signals import task_enqueued, task_finished, task_started

    AnyTask: TypeAlias = Task[..., Any]
    AnyResult: TypeAlias = TaskResult[..., Any]

    def normalize_json(obj: Any) -> Any: ...
else:
    try:
        _root = import_module(PACKAGE)
    except ModuleNotFoundError as error:
        if error.name != PACKAGE:
            raise
        raise ModuleNotFoundError(
            "Django 5.2 has no task framework of its own; install its backport: pip install 'djjp[tasks]'",
            name=PACKAGE,
        ) from None
    _base, _exceptions, _signals = (
        import_module(f"{PACKAGE}.{module}") for module in ("base", "exceptions", "signals")
    )
    _normal = "django.utils.json" if PACKAGE == "django.tasks" else f"{PACKAGE}.utils"

    task_backends = _root.task_backends
    BaseTaskBackend = import_module(f"{PACKAGE}.backends.base").BaseTaskBackend
    Task, TaskContext, TaskError = _base.Task, _base.TaskContext, _base.TaskError
    TaskResult, TaskResultStatus = _base.TaskResult, _base.TaskResultStatus
    AnyTask, AnyResult = Task, TaskResult  # at runtime they take other type parameters, or none
    # The backport calls it InvalidTaskError.
    InvalidTask = getattr(_exceptions, "InvalidTask", None) or _exceptions.InvalidTaskError
    TaskResultDoesNotExist = _exceptions.TaskResultDoesNotExist
    task_enqueued, task_started = _signals.task_enqueued, _signals.task_started
    task_finished = _signals.task_finished
    normalize_json = import_module(_normal).normalize_json
