"""Copy and enqueue again: a new job with the arguments of another one, which can be edited."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.http import HttpResponseRedirect as Redirect
from django.urls import URLPattern
from django.utils.html import format_html
from django.utils.translation import gettext as _

from djjp import engine, redaction
from djjp.admin import display
from djjp.admin.job_copy_form import CopyForm, call_of
from djjp.admin.job_verbs import JobVerbs
from djjp.engine import Engine
from djjp.jobs import RegisteredJob, registry
from djjp.jobs.handles import JobHandle
from djjp.models import Flag, Job


class JobCopy(JobVerbs):
    """The page that enqueues a copy of a job."""

    def get_urls(self) -> list[URLPattern]:
        return [
            self.route("<uuid:pk>/copy/", self.copy_view, "djjp_job_copy"),
            *super().get_urls(),
        ]

    def copy_view(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        """Show the form, or enqueue the new job."""
        self.require(request, "view", "operate", "arguments")
        job = engine.run(lambda engine: _row(engine, pk))
        if job is None:
            return self.gone(request, pk)
        registered, call = registry.find(job.name), call_of(job)
        if registered is None or call is None:
            return self._page(request, job, None, _problem(job, registered))
        form = CopyForm(call, job, registered, request.POST if request.method == "POST" else None)
        if form.is_valid() and (done := form.enqueue()) is not None:
            return self._enqueued(request, job, *done)
        return self._page(request, job, form, "")

    def _enqueued(
        self, request: HttpRequest, job: Job, handle: JobHandle[Any], is_new: bool
    ) -> HttpResponse:
        url = self.change_url(handle.id)
        if not is_new:
            text = _("Nothing was enqueued: job %s holds its unique key.") % handle.id
            self.notify(request, text, messages.WARNING)
            return Redirect(url)
        self.record(
            request, Job, handle.id, f"{job.name} {handle.id}", _("Copied from job %s.") % job.pk
        )
        text = _('Enqueued as <a href="{}">job {}</a>, a copy of job {}.')
        self.notify(request, format_html(text, url, handle.id, job.pk))
        return Redirect(url)

    def _page(
        self, request: HttpRequest, job: Job, form: CopyForm | None, problem: str
    ) -> HttpResponse:
        return self.page(
            request,
            "admin/djjp/job/copy.html",
            _("Copy of %s") % display.lines(job.name),
            job=job,
            shown_name=display.lines(job.name),
            badge=display.badge(job),
            form=form,
            problem=problem,
            lacks_input=bool(job.flags & (Flag.TAKES_INPUT | Flag.COLLECTS)),
            substitute=redaction.substitute(),
            back=self.change_url(job.pk),
        )


def _problem(job: Job, registered: RegisteredJob[..., Any] | None) -> str:
    name = display.lines(job.name)
    if registered is None:
        text = _(
            "No job named %s is registered in this process, so that nothing can check or run a copy of it."
        )
        return text % name
    return _(
        "The arguments of this job cannot be edited: they are damaged, too long, or those of a task."
    )


def _row(engine: Engine, id: UUID) -> Job | None:
    return Job.objects.using(engine.db.alias).defer("result", "input").filter(pk=id).first()
