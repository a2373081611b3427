"""Actions on jobs in the admin besides deletion: retry jobs that have ended, cancel the others.

Both call the engine, as a job's handle does, so that their consequences (for pipelines, limits, keys) are
the same. The permission to change jobs covers both.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from djjp import engine
from djjp.admin import display
from djjp.admin.base import QueueModelAdmin
from djjp.models import FINISHED, Flag, Job, State


class Action(NamedTuple):
    """An action on jobs.

    Attributes:
        done: its past participle, for the log and the messages.
        obstacle: returns why it is impossible for a job; None if it is possible.
        execute: executes it; returns the number of changed jobs, which can exceed the number given: see
            `retry`.
    """

    done: str
    obstacle: Callable[[Job], str | None]
    execute: Callable[[list[UUID]], int]


def _retry_obstacle(job: Job) -> str | None:
    if job.state not in FINISHED:
        return "not having ended"
    if job.flags & Flag.ON_FAILURE and job.input is None:
        return "because no job of its pipeline has failed"
    return None


def _cancel_obstacle(job: Job) -> str | None:
    if job.state in FINISHED:
        return "having ended"
    return "being cancelled already" if display.is_cancelling(job) else None


ACTIONS = {
    "retry": Action(
        "Retried",
        _retry_obstacle,
        lambda ids: engine.run(lambda engine: engine.control.retry(ids)),
    ),
    "cancel": Action(
        "Cancelled",
        _cancel_obstacle,
        lambda ids: engine.run(lambda engine: engine.control.cancel(ids, time.time())),
    ),
}


class JobActions(QueueModelAdmin):
    """Buttons on a job's page, and actions of the list."""

    button_names = tuple(ACTIONS)
    pk_converter = "uuid"

    def has_retry_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may change jobs; retry and cancel are the only uses of that permission."""
        return super().has_change_permission(request)

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return super().has_change_permission(request)

    def buttons(self, request: HttpRequest, job: Job) -> list[str]:
        """Return the names of the actions that are possible for a job and permitted to the user."""
        return [
            name
            for name, action in ACTIONS.items()
            if action.obstacle(job) is None and self.may_press(request, name)
        ]

    @admin.action(permissions=["retry"], description="Retry selected %(verbose_name_plural)s")
    def retry_selected(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        self.press(request, "retry", queryset)

    @admin.action(permissions=["cancel"], description="Cancel selected %(verbose_name_plural)s")
    def cancel_selected(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        self.press(request, "cancel", queryset)

    def press(self, request: HttpRequest, name: str, queryset: QuerySet[Job]) -> None:
        jobs = list(queryset.defer("arguments", "result"))
        if not jobs:
            return
        action = ACTIONS[name]
        skipped = Counter(obstacle for job in jobs if (obstacle := action.obstacle(job)))
        possible = [job for job in jobs if action.obstacle(job) is None]
        count = action.execute([job.pk for job in possible]) if possible else 0
        self.log_changes(request, possible, f"{action.done}.")
        if count:
            text = f"{action.done} {display.count(count, 'job')}."
            if any(job.state == State.RUNNING for job in possible):
                text += " Running jobs receive the request and end soon."
            self.message_user(request, text, messages.SUCCESS)
        if count < len(possible):
            skipped["changed by others meanwhile"] = len(possible) - count
        for reason, number in skipped.items():
            text = f"{display.count(number, 'job')} left unchanged, {reason}."
            self.message_user(request, text, messages.WARNING)
