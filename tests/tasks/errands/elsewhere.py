"""Tasks outside of `tasks.py`, and a trace of the processes that import this."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import django

if TYPE_CHECKING or django.VERSION >= (6, 0):
    from django.tasks import task
else:
    from django_tasks import task

if trace := os.environ.get("DJJP_TEST_TRACE"):
    Path(trace).write_text(__name__, encoding="utf-8")


@task
def found() -> str:
    return "found"


@task(backend="default")
def renamed() -> str:
    return "renamed"


moved = renamed


def plain() -> str:
    """Neither a task nor decorated."""
    return "plain"


def undecorated(number: int) -> int:
    """The function of a task that has another name here."""
    return number * 2


doubled = task(undecorated)
