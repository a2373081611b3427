"""The tools of the tests of tasks: the framework under the names that users import, and a consumer."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from asgiref.sync import sync_to_async
from django.db import connections

from djjp.tasks import compat
from tests.support.consumers import drain

__all__ = [
    "DJJP",
    "FAILED",
    "READY",
    "RUNNING",
    "SUCCESSFUL",
    "TASKS",
    "awaited",
    "base",
    "drain_here",
    "exceptions",
    "ran",
    "signals",
    "tasks",
]

T = TypeVar("T")

if TYPE_CHECKING:
    from django import tasks
    from django.tasks import base, exceptions, signals
else:  # `django.tasks`, or its backport
    tasks = importlib.import_module(compat.PACKAGE)
    base = importlib.import_module(f"{compat.PACKAGE}.base")
    exceptions = importlib.import_module(f"{compat.PACKAGE}.exceptions")
    signals = importlib.import_module(f"{compat.PACKAGE}.signals")

READY, RUNNING = compat.TaskResultStatus.READY, compat.TaskResultStatus.RUNNING
FAILED, SUCCESSFUL = compat.TaskResultStatus.FAILED, compat.TaskResultStatus.SUCCESSFUL

DJJP = "djjp.backend.DjjpBackend"
TASKS = {
    "default": {"BACKEND": DJJP, "QUEUES": ["default", "mail"]},
    "open": {"BACKEND": DJJP, "QUEUES": []},
    "immediate": {
        "BACKEND": f"{compat.PACKAGE}.backends.immediate.ImmediateBackend",
        "QUEUES": [],
    },
}


def drain_here() -> None:
    """`drain()` for a thread of its own."""
    try:
        drain()
    finally:
        connections.close_all()


def awaited(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine, and close the connections of the thread in which it called Django."""

    async def whole() -> T:
        try:
            return await coroutine
        finally:
            await sync_to_async(connections.close_all)()

    return asyncio.run(whole())


def ran(result: compat.AnyResult) -> compat.AnyResult:
    """Return a task's result after a consumer has run the due jobs."""
    drain()
    result.refresh()
    return result
