"""`JobAdmin`: the list of jobs, the page of one job, and what people may do to them.

A job's row belongs to the queue, so it is never edited here. Who may change jobs may retry those that
have ended and cancel the others (`djjp.admin.actions`); who may delete jobs may delete them, running
ones too: their outcome is then dropped by the fence.

Jobs live on the queue's database; Django's log of admin actions, users and sessions do not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import LogEntry
from django.core.exceptions import BadRequest
from django.db import transaction
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from djjp import conf, engine
from djjp.admin import display as show
from djjp.admin.actions import Actions
from djjp.admin.changelist import FILTERS, BoundedPaginator, JobList, PageActionForm, search
from djjp.admin.pipeline import family
from djjp.models import Attempt, Flag, Job, State

#: Failed attempts that a job's page shows, the latest ones.
ATTEMPTS_SHOWN = 20

_NOTHING = SafeString("-")


@admin.register(Job)
class JobAdmin(Actions):
    """Jobs in the admin: to look at, retry, cancel and delete."""

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

    class Media:
        css = {"all": ["djjp/admin.css"]}

    # What may be done

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Job | None = None) -> bool:
        return False

    # The list

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[JobList]:
        return JobList

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Only what the filters offer: a URL could ask for a search through every payload."""
        return any(lookup == each.parameter_name for each in FILTERS)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Job], search_term: str
    ) -> tuple[QuerySet[Job], bool]:
        return search(queryset, search_term), False

    def response_action(
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponse | None:
        """Run an action, once all that is ticked can be the id of a job: a form can be forged."""
        for ticked in request.POST.getlist(ACTION_CHECKBOX_NAME):
            try:
                UUID(ticked)
            except ValueError:
                raise BadRequest(f"{ticked!r} is no job's id") from None
        return super().response_action(request, *args, **kwargs)

    @admin.display(description="state")
    def state_badge(self, job: Job) -> SafeString:
        return show.badge(job)

    @admin.display(description="queue")
    def queue_link(self, job: Job) -> SafeString:
        query: str = job.queue_query  # type: ignore[attr-defined]  # `JobList` has put it there
        return format_html('<a href="{}">{}</a>', query, job.queue)

    @admin.display(description="created")
    def created(self, job: Job) -> SafeString:
        return show.moment(job.created_at) or _NOTHING

    @admin.display(description="started")
    def started(self, job: Job) -> SafeString:
        return show.moment(job.started_at) or _NOTHING

    @admin.display(description="finished")
    def finished(self, job: Job) -> SafeString:
        return show.moment(job.finished_at) or _NOTHING

    @admin.display(description="duration")
    def duration(self, job: Job) -> str:
        return show.duration(job.started_at, job.finished_at) or _NOTHING

    # The page of one job

    def get_fieldsets(self, request: HttpRequest, obj: Job | None = None) -> Any:
        """What every job has, and what this one has besides."""
        return _sections(obj) if obj is not None else ()

    @admin.display(description="reason")
    def why(self, job: Job) -> str:
        """Why it is in its state, where that is more than its turn not having come."""
        if job.reason:
            return job.reason
        if job.state == State.FAILED:
            failed = job.failures.defer("traceback").order_by("-pk").first()
            return _NOTHING if failed is None else show.error(failed)
        if job.state == State.BLOCKED and job.flags & Flag.ON_FAILURE:
            return "waits for a failure in its pipeline"
        if job.state == State.BLOCKED and job.waits_for:
            return f"waits for {show.count(job.waits_for, 'job')} of its pipeline"
        if job.state == State.BLOCKED:
            return "waits for a place under its limit"
        return "put off by its rate" if _is_put_off(job) else _NOTHING

    @admin.display(description="limit")
    def limit(self, job: Job) -> str:
        return show.limit(job.limit_key, job.limit_max, job.limit_per) or _NOTHING

    @admin.display(description="unique key")
    def unique(self, job: Job) -> str:
        until = " (until it starts)" if job.flags & Flag.UNTIL_START else ""
        return _NOTHING if job.unique_key is None else f"{job.unique_key}{until}"

    @admin.display(description="expires")
    def expires(self, job: Job) -> SafeString:
        return show.moment(job.expires_at) or _NOTHING

    @admin.display(description="progress")
    def progress(self, job: Job) -> str:
        return show.progress(job.progress_done, job.progress_total) or _NOTHING

    @admin.display(description="not before")
    def not_before(self, job: Job) -> SafeString:
        return show.moment(job.run_after) or _NOTHING

    @admin.display(description="positional")
    def positional_arguments(self, job: Job) -> SafeString:
        return show.block(show.split_arguments(job.arguments)[0])

    @admin.display(description="keyword")
    def keyword_arguments(self, job: Job) -> SafeString:
        keyword = show.split_arguments(job.arguments)[1]
        return _NOTHING if keyword is None else show.block(keyword)

    @admin.display(description="received")
    def received_reason(self, job: Job) -> SafeString:
        """Why an `on_failure` job runs: its first argument."""
        return _NOTHING if job.input is None else show.block(show.lay_out(job.input))

    @admin.display(description="returned")
    def returned(self, job: Job) -> SafeString:
        return _NOTHING if job.result is None else show.block(show.lay_out(job.result))

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
                "attempts": [show.attempt(each) for each in latest[:ATTEMPTS_SHOWN]],
                "earlier_attempts": len(latest) > ATTEMPTS_SHOWN,
                "buttons": self.buttons(request, obj),
                "family": family(obj, self.admin_site.name),
            }
        return super().render_change_form(request, context, add, change, form_url, obj)

    # Delete

    def get_deleted_objects(
        self, objs: Iterable[Job], request: HttpRequest
    ) -> tuple[list[Any], dict[str, int], set[str], list[str]]:
        """As Django does it, but counting the attempts, not loading all their tracebacks."""
        jobs = list(objs)
        failures = Attempt.objects.filter(job__in=jobs)
        counts = dict(failures.values_list("job").annotate(Count("pk")).order_by())
        shown: list[Any] = []
        for job in jobs:
            url = reverse("admin:djjp_job_change", args=[job.pk], current_app=self.admin_site.name)
            shown.append(format_html('Job: <a href="{}">{}</a>', url, job))
            if job.pk in counts:
                shown.append([show.count(counts[job.pk], "failed attempt")])
        totals = {"jobs": len(jobs), "failed attempts": sum(counts.values())}
        allowed = all(self.has_delete_permission(request, job) for job in jobs)
        lacking = set() if allowed else {str(self.opts.verbose_name)}
        return shown, {name: total for name, total in totals.items() if total}, lacking, []

    def log_deletions(self, request: HttpRequest, queryset: Any) -> list[LogEntry]:
        """Log once the queue has let go of the jobs.

        Django deletes a single object inside a transaction; on SQLite the queue would stand still
        for as long as the application's database lets the log wait.
        """
        jobs: Any = list(queryset)
        log = super().log_deletions
        transaction.on_commit(lambda: log(request, jobs), using=conf.current().db_name)
        return []

    def delete_model(self, request: HttpRequest, obj: Job) -> None:
        self.delete_queryset(request, self.get_queryset(request).filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        with transaction.atomic(using=conf.current().db_name):
            # First the rows' locks: a consumer that is about to report a failed attempt either has
            # done so, and the attempt goes too, or finds its job gone.
            jobs = queryset.order_by("pk").select_for_update()
            ids = list(jobs.values_list("pk", flat=True))
            engine.current().pipelines.cancel_dependents(ids)
            self.get_queryset(request).filter(pk__in=ids).defer("arguments", "result").delete()


def _sections(job: Job) -> list[tuple[str | None, dict[str, Any]]]:
    """The sections of a job's page and their fields."""
    told = job.reason or _is_put_off(job) or job.state in (State.FAILED, State.BLOCKED)
    head = ("state_badge", *(("why",) if told else ()), "name", "id", ("queue", "priority"))
    terms = {"limit": job.limit_key, "unique": job.unique_key, "expires": job.expires_at}
    agreed = tuple(name for name, value in terms.items() if value is not None)
    call: dict[str, Any] = {"fields": ("positional_arguments", "keyword_arguments")}
    if job.flags & Flag.TAKES_INPUT:
        what = (
            "why it runs" if job.flags & Flag.ON_FAILURE else "the results of those it runs after"
        )
        call["description"] = f"Before these it receives {what}."
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
        *([("Limits", {"fields": agreed})] if agreed else []),
        ("Execution", {"fields": execution}),
    ]
    return sections


def _is_put_off(job: Job) -> bool:
    return job.state == State.SCHEDULED and bool(job.flags & Flag.THROTTLED)
