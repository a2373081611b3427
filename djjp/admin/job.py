"""`JobAdmin`: the dashboard's fragment, the list of jobs, the page of one job, and the pages beneath them.

A job's row belongs to the queue, so it is never edited here. The list is in `djjp.admin.jobs`, the page of one job
in `djjp.admin.job_page`, its buttons are in `djjp.admin.job_verbs`.

Jobs live on the queue's database; Django's log of admin actions, users and sessions do not.
"""

from __future__ import annotations

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern

from djjp.admin.failures import FailurePages
from djjp.admin.job_page import JobPage
from djjp.admin.jobs import JobListPages
from djjp.admin.names import NamePages
from djjp.admin.outboxes import OutboxPages
from djjp.admin.pipeline_pages import PipelinePages
from djjp.admin.rights import rights_of
from djjp.models import Job


class JobAdmin(JobPage, JobListPages, FailurePages):
    """Jobs in the admin."""

    def get_urls(self) -> list[URLPattern]:
        return [
            self.route("dashboard/", self.dashboard_view, "djjp_job_dashboard"),
            *PipelinePages(Job, self.admin_site).pages(),
            *NamePages(Job, self.admin_site).pages(),
            *OutboxPages(Job, self.admin_site).pages(),
            *super().get_urls(),
        ]

    def dashboard_view(self, request: HttpRequest) -> HttpResponse:
        """Return what changes on the dashboard; the dashboard itself is the index of the app."""
        if not rights_of(request).view:
            raise PermissionDenied
        request.current_app = self.admin_site.name
        context = {**self.admin_site.each_context(request), "base": "admin/djjp/fragment.html"}
        return TemplateResponse(request, "admin/djjp/app_index.html", context)
