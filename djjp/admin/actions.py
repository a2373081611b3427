"""What people may do to jobs in the admin, beside deleting them: retry those that have ended, cancel the others.

Both go through the queue's verbs, as the handle's do, so that what a verb does besides is done here
too. Who may change jobs may do both.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import URLPattern, path, reverse

from djjp import engine
from djjp.admin import display as show
from djjp.models import FINISHED, Flag, Job, State

if TYPE_CHECKING:
    Base = admin.ModelAdmin[Job]
else:
    Base = admin.ModelAdmin


class Action(NamedTuple):
    """One thing that can be done to jobs.

    Attributes:
        done: what was done, as the log and the messages say it.
        obstacle: why it cannot be done to a job; None where it can.
        verb: does it; returns to how many jobs, which may be more than were given: see `retry`.
    """

    done: str
    obstacle: Callable[[Job], str | None]
    verb: Callable[[list[UUID]], int]


def _no_retry(job: Job) -> str | None:
    if job.state not in FINISHED:
        return "not having ended"
    if job.flags & Flag.ON_FAILURE and job.input is None:
        return "for which nothing has failed"
    return None


def _no_cancel(job: Job) -> str | None:
    if job.state in FINISHED:
        return "having ended"
    return "told to stop already" if show.is_told_to_stop(job) else None


ACTIONS = {
    "retry": Action(
        "Retried",
        _no_retry,
        lambda ids: engine.run(lambda engine: engine.control.retry(ids)),
    ),
    "cancel": Action(
        "Cancelled",
        _no_cancel,
        lambda ids: engine.run(lambda engine: engine.control.cancel(ids, time.time())),
    ),
}


class Actions(Base):
    """Buttons on a job's page, and actions of the list."""

    def has_retry_permission(self, request: HttpRequest) -> bool:
        """The permission to change jobs, of which this and `cancel` are the only uses."""
        return super().has_change_permission(request)

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return super().has_change_permission(request)

    def buttons(self, request: HttpRequest, job: Job) -> list[str]:
        """The names of what can be done to a job, and may be by this user."""
        return [
            name
            for name, action in ACTIONS.items()
            if action.obstacle(job) is None and self._may(request, name)
        ]

    def get_urls(self) -> list[URLPattern]:
        views = [
            path(
                f"<uuid:job_id>/{name}/",
                self.admin_site.admin_view(self._view),
                {"name": name},
                name=f"djjp_job_{name}",
            )
            for name in ACTIONS
        ]
        return [*views, *super().get_urls()]

    def _view(self, request: HttpRequest, job_id: UUID, name: str) -> HttpResponse:
        """A button on a job's page."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not self._may(request, name):
            raise PermissionDenied
        self._act(request, name, self.get_queryset(request).filter(pk=job_id))
        page = reverse("admin:djjp_job_change", args=[job_id], current_app=self.admin_site.name)
        kept: dict[str, Any] = {
            "preserved_filters": self.get_preserved_filters(request),
            "opts": self.opts,
        }
        return HttpResponseRedirect(add_preserved_filters(kept, page))

    @admin.action(permissions=["retry"], description="Retry selected %(verbose_name_plural)s")
    def retry_selected(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        self._act(request, "retry", queryset)

    @admin.action(permissions=["cancel"], description="Cancel selected %(verbose_name_plural)s")
    def cancel_selected(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        self._act(request, "cancel", queryset)

    def _may(self, request: HttpRequest, name: str) -> bool:
        allowed: bool = getattr(self, f"has_{name}_permission")(request)
        return allowed

    def _act(self, request: HttpRequest, name: str, queryset: QuerySet[Job]) -> None:
        jobs = list(queryset.defer("arguments", "result"))
        if not jobs:
            return
        action = ACTIONS[name]
        left = Counter(obstacle for job in jobs if (obstacle := action.obstacle(job)))
        met: Any = [job for job in jobs if action.obstacle(job) is None]
        count = action.verb([job.pk for job in met]) if met else 0
        user: Any = request.user
        if met:
            LogEntry.objects.log_actions(user.pk, met, CHANGE, f"{action.done}.")
        if count:
            text = f"{action.done} {show.count(count, 'job')}."
            if any(job.state == State.RUNNING for job in met):
                text += " What runs is told to stop, and ends soon."
            self.message_user(request, text, messages.SUCCESS)
        if count < len(met):
            left["changed by others meanwhile"] = len(met) - count
        for why, number in left.items():
            text = f"{show.count(number, 'job')} left alone, {why}."
            self.message_user(request, text, messages.WARNING)
