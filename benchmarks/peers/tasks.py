"""The jobs, as tasks of Django's own framework."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import django

from benchmarks.peers import work

# On Django 5.2 the task framework is the backport.
_framework: Any = import_module("django.tasks" if django.VERSION >= (6,) else "django_tasks")
task = _framework.task


@task  # type: ignore[untyped-decorator]
def noop(value: float) -> None:
    work.noop(value)


@task  # type: ignore[untyped-decorator]
def nap(value: float) -> None:
    work.nap(value)
