"""`JobAdmin`: the list of jobs, the page of one job, and the actions on them.

A job's row belongs to the queue, so it is never edited here. The permission to change jobs allows retry of
jobs that have ended and cancellation of the others (`djjp.admin.actions`). The permission to delete jobs
includes running jobs: the fence then drops their outcomes.

Jobs live on the queue's database; Django's log of admin actions, users and sessions do not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import BadRequest
from django.db import transaction
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from djjp import conf, engine
from djjp.admin import display
from djjp.admin.actions import JobActions
from djjp.admin.changelist import FILTERS, BoundedPaginator, JobList, PageActionForm, search
from djjp.admin.pipeline import neighbours
from djjp.models import Attempt, Flag, Job, State

#: Maximum number of failed attempts on a job's page, the latest ones.
ATTEMPTS_SHOWN = 20


@admin.register(Job)
class JobAdmin(JobActions):
    """Jobs in the admin: view, retry, cancel and delete them."""

    list_display = (
        "state_badge",
        "name",
        "queue_link",
        "attempts",
        "created",
        "started",
        "finished",
        "duration",
    )
    list_display_links = ("name",)
    list_filter = FILTERS
    list_per_page = 100
    sortable_by = ()
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = BoundedPaginator
    search_fields = ("id", "name")
    search_help_text = "A job's or a pipeline's id, or a part of a name."
    action_form = PageActionForm
    actions = ("retry_selected", "cancel_selected")

    # Permissions

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Job | None = None) -> bool:
        return False

    # The list

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[JobList]:
        return JobList

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Allow the filters' lookups only: a URL could otherwise search through all arguments and results."""
        return any(lookup == each.parameter_name for each in FILTERS)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Job], search_term: str
    ) -> tuple[QuerySet[Job], bool]:
        return search(queryset, search_term), False

    def response_action(
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponse | None:
        """Run an action if all selected values can be ids of jobs: a form can be forged."""
        for selected in request.POST.getlist(ACTION_CHECKBOX_NAME):
            try:
                UUID(selected)
            except ValueError:
                raise BadRequest(f"{selected!r} is not a job's id") from None
        return super().response_action(request, *args, **kwargs)

    @admin.display(description="state")
    def state_badge(self, job: Job) -> SafeString:
        return display.badge(job)

    @admin.display(description="queue")
    def queue_link(self, job: Job) -> SafeString:
        query: str = job.queue_query  # type: ignore[attr-defined]  # set by `JobList`
        return format_html('<a href="{}">{}</a>', query, job.queue)

    @admin.display(description="created")
    def created(self, job: Job) -> SafeString:
        return display.timestamp(job.created_at) or display.NOTHING

    @admin.display(description="started")
    def started(self, job: Job) -> SafeString:
        return display.timestamp(job.started_at) or display.NOTHING

    @admin.display(description="finished")
    def finished(self, job: Job) -> SafeString:
        return display.timestamp(job.finished_at) or display.NOTHING

    @admin.display(description="duration")
    def duration(self, job: Job) -> str:
        return display.duration(job.started_at, job.finished_at) or display.NOTHING

    # The page of one job

    def get_fieldsets(self, request: HttpRequest, obj: Job | None = None) -> Any:
        """Return the sections of every job and those of this job only."""
        return _sections(obj) if obj is not None else ()

    @admin.display(description="reason")
    def why(self, job: Job) -> str:
        """Return why the job is in its state, unless it only waits for its turn."""
        if job.reason:
            return job.reason
        if job.state == State.FAILED:
            failed = job.failures.defer("traceback").order_by("-pk").first()
            return display.NOTHING if failed is None else display.error(failed)
        if job.state == State.BLOCKED and job.flags & Flag.ON_FAILURE:
            return "waits for a failure in its pipeline"
        if job.state == State.BLOCKED and job.waits_for:
            return f"waits for {display.count(job.waits_for, 'job')} of its pipeline"
        if job.state == State.BLOCKED:
            return "waits for a permit under its limit"
        return "throttled by its rate" if _is_throttled(job) else display.NOTHING

    @admin.display(description="limit")
    def limit(self, job: Job) -> str:
        return display.limit(job.limit_key, job.limit_max, job.limit_per) or display.NOTHING

    @admin.display(description="unique key")
    def unique(self, job: Job) -> str:
        until = " (until it starts)" if job.flags & Flag.UNTIL_START else ""
        return display.NOTHING if job.unique_key is None else f"{job.unique_key}{until}"

    @admin.display(description="expires")
    def expires(self, job: Job) -> SafeString:
        return display.timestamp(job.expires_at) or display.NOTHING

    @admin.display(description="progress")
    def progress(self, job: Job) -> str:
        return display.progress(job.progress_done, job.progress_total) or display.NOTHING

    @admin.display(description="not before")
    def not_before(self, job: Job) -> SafeString:
        return display.timestamp(job.run_after) or display.NOTHING

    @admin.display(description="positional")
    def positional_arguments(self, job: Job) -> SafeString:
        return display.block(display.split_arguments(job.arguments)[0])

    @admin.display(description="keyword")
    def keyword_arguments(self, job: Job) -> SafeString:
        keyword = display.split_arguments(job.arguments)[1]
        return display.NOTHING if keyword is None else display.block(keyword)

    @admin.display(description="received")
    def received_reason(self, job: Job) -> SafeString:
        """Return the first argument of an `on_failure` job: why it runs."""
        return (
            display.NOTHING if job.input is None else display.block(display.pretty_json(job.input))
        )

    @admin.display(description="returned")
    def returned(self, job: Job) -> SafeString:
        return (
            display.NOTHING
            if job.result is None
            else display.block(display.pretty_json(job.result))
        )

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Job | None = None,
    ) -> HttpResponse:
        if obj is not None:
            latest = list(obj.failures.order_by("-pk")[: ATTEMPTS_SHOWN + 1])
            context |= {
                "attempts": [display.attempt(each) for each in latest[:ATTEMPTS_SHOWN]],
                "earlier_attempts": len(latest) > ATTEMPTS_SHOWN,
                "buttons": self.buttons(request, obj),
                "neighbours": neighbours(obj, self.admin_site.name),
            }
        return super().render_change_form(request, context, add, change, form_url, obj)

    # Delete

    def get_deleted_objects(
        self, objs: Iterable[Job], request: HttpRequest
    ) -> tuple[list[Any], dict[str, int], set[str], list[str]]:
        """Do what Django does, but count the attempts instead of loading all their tracebacks."""
        jobs = list(objs)
        failures = Attempt.objects.filter(job__in=jobs)
        counts = dict(failures.values_list("job").annotate(Count("pk")).order_by())
        shown: list[Any] = []
        for job in jobs:
            link = format_html('Job: <a href="{}">{}</a>', self.change_url(job.pk), job)
            shown.append(link)
            if job.pk in counts:
                shown.append([display.count(counts[job.pk], "failed attempt")])
        totals = {"jobs": len(jobs), "failed attempts": sum(counts.values())}
        allowed = all(self.has_delete_permission(request, job) for job in jobs)
        lacking = set() if allowed else {str(self.opts.verbose_name)}
        return shown, {name: total for name, total in totals.items() if total}, lacking, []

    def delete_model(self, request: HttpRequest, obj: Job) -> None:
        self.delete_queryset(request, self.get_queryset(request).filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        with transaction.atomic(using=conf.current().db_name):
            # Lock the rows first: a consumer that is about to record a failed attempt either has done
            # so, and the attempt is deleted too, or it finds the job gone.
            jobs = queryset.order_by("pk").select_for_update()
            ids = list(jobs.values_list("pk", flat=True))
            engine.current().pipelines.cancel_dependents(ids)
            self.get_queryset(request).filter(pk__in=ids).defer("arguments", "result").delete()


def _sections(job: Job) -> list[tuple[str | None, dict[str, Any]]]:
    """Return the sections of a job's page and their fields."""
    has_reason = job.reason or _is_throttled(job) or job.state in (State.FAILED, State.BLOCKED)
    head = ("state_badge", *(("why",) if has_reason else ()), "name", "id", ("queue", "priority"))
    constraints = {"limit": job.limit_key, "unique": job.unique_key, "expires": job.expires_at}
    constrained = tuple(name for name, value in constraints.items() if value is not None)
    call: dict[str, Any] = {"fields": ("positional_arguments", "keyword_arguments")}
    if job.flags & Flag.TAKES_INPUT:
        received = "why it runs" if job.flags & Flag.ON_FAILURE else "the results of its parents"
        call["description"] = f"Before these it receives {received}."
        if job.input is not None:
            call["fields"] = ("received_reason", *call["fields"])
    execution = (
        ("created", "not_before"),
        ("started", "finished"),
        ("duration", "consumer"),
        ("attempts", "rescues"),
        ("progress", "on_crash"),
    )
    sections: list[tuple[str | None, dict[str, Any]]] = [
        (None, {"fields": head}),
        ("Arguments", call),
        *([("Result", {"fields": ("returned",)})] if job.result is not None else []),
        *([("Limits", {"fields": constrained})] if constrained else []),
        ("Execution", {"fields": execution}),
    ]
    return sections


def _is_throttled(job: Job) -> bool:
    return job.state == State.SCHEDULED and bool(job.flags & Flag.THROTTLED)
