"""The deletion of jobs: after a confirmation that names what goes with them, and what becomes of a running one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib.admin.utils import unquote
from django.db import transaction
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from djjp import conf, engine
from djjp.admin import display
from djjp.admin.job_verbs import JobVerbs
from djjp.admin.rights import rights_of
from djjp.exceptions import JobDoesNotExist
from djjp.jobs.reading import as_uuid
from djjp.models import Attempt, Flag, Job, State
from djjp.monitoring.headline import host_of


class JobDelete(JobVerbs):
    """Delete jobs, also running ones: the fence then drops their outcomes."""

    delete_confirmation_template = "admin/djjp/job/delete.html"

    def has_delete_permission(self, request: HttpRequest, obj: Job | None = None) -> bool:
        return rights_of(request).delete

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Ask for a confirmation that names what will happen, and delete a job."""
        self.require(request, "view", "delete")
        try:
            job = self.row(as_uuid(unquote(object_id)))
        except JobDoesNotExist:
            job = None
        if job is None:
            return self.gone(request, unquote(object_id))
        request.current_app = self.admin_site.name
        more = {
            "title": _("Delete: %s") % display.lines(job.name),
            "job": job,
            "shown_name": display.lines(job.name),
            "badge": display.badge(job),
            "effects": self.effects_of_deletion(job),
            "list_url": self.with_filters(request, self.url("djjp_job_changelist")),
            "back": self.with_filters(request, self.change_url(job.pk)),
            "rights": rights_of(request),
        }
        return super().delete_view(request, object_id, {**more, **(extra_context or {})})

    def effects_of_deletion(self, job: Job) -> list[str]:
        """Return what will happen when a job is deleted, a sentence each."""
        alias = engine.current().db.alias
        failures = Attempt.objects.using(alias).filter(job_id=job.pk).count()
        found = [_("Its row goes for good, with its arguments and its result.")]
        if failures:
            found[0] = _(
                "Its row goes for good, with its arguments, its result and %s."
            ) % _failed_attempts(failures)
        if job.state == State.RUNNING:
            text = _(
                "It runs on %s. That goes on: nothing stops it, but the fence drops its outcome, "
                "so that its result or its error is lost. To stop it, cancel it instead."
            )
            found.append(text % display.lines(host_of(job.consumer)))
        if job.flags & Flag.HAS_DEPENDENTS and job.state != State.SUCCEEDED:
            found.append(_("The jobs of its pipeline that depend on it are cancelled."))
        return found

    def get_deleted_objects(
        self, objs: Iterable[Job], request: HttpRequest
    ) -> tuple[list[Any], dict[str, int], set[str], list[str]]:
        """Do what Django does, but count the attempts instead of loading all their tracebacks."""
        jobs = list(objs)
        failures = Attempt.objects.filter(job__in=jobs)
        counts = dict(failures.values_list("job").annotate(Count("pk")).order_by())
        shown: list[Any] = []
        for job in jobs:
            link = format_html('{}: <a href="{}">{}</a>', _("Job"), self.change_url(job.pk), job)
            shown.append(link)
            if job.pk in counts:
                shown.append([_failed_attempts(counts[job.pk])])
        totals = {_("jobs"): len(jobs), _("failed attempts"): sum(counts.values())}
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


def _failed_attempts(number: int) -> str:
    text = ngettext("%(count)s failed attempt", "%(count)s failed attempts", number)
    return text % {"count": display.number(number)}
