"""Tasks outside of `tasks.py`, and a trace of whoever imports this."""

from __future__ import annotations

import os
from pathlib import Path

import django

if django.VERSION >= (6, 0):
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
