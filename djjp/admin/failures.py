"""The page of failures: failed attempts in groups, each with its cause, its jobs and the button to retry them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern
from django.utils.translation import gettext as _

from djjp.admin import display
from djjp.admin.charts import sparkline
from djjp.admin.filtering import Asked, form_of, is_fragment, query_of
from djjp.admin.pages import PageAdmin
from djjp.models import State
from djjp.monitoring import FailureGroup, Failures, Filter, failures

#: The seconds for which a page searches.
SECONDS = 0.15


class FailurePages(PageAdmin):
    """Failures in groups."""

    def get_urls(self) -> list[URLPattern]:
        route = self.route("failures/", self.failures_view, "djjp_job_failures")
        return [route, *super().get_urls()]

    def failures_view(self, request: HttpRequest) -> HttpResponse:
        self.require(request, "view")
        asked = Asked.of(request.GET)
        found = None if asked.wanted is None else failures(asked.wanted, time_limit=SECONDS)
        context: dict[str, Any] = {} if is_fragment(request) else form_of(asked)
        return self.page(
            request,
            "admin/djjp/job/failures.html",
            _("Failures"),
            status=400 if asked.unknown else 200,
            live=found is not None,
            found=found,
            groups=[self._group(each, found, asked) for each in found.groups] if found else [],
            address=self.url("djjp_job_failures"),
            query=asked.query(),
            **context,
        )

    def _group(self, group: FailureGroup, found: Failures, asked: Asked) -> dict[str, Any]:
        jobs = query_of(_jobs(group, asked.wanted or Filter()))
        failed = query_of(replace(_jobs(group, asked.wanted or Filter()), state=(State.FAILED,)))
        return {
            "key": f"{group.name} {group.exception_class} {group.frame}",
            "name": display.lines(group.name),
            "exception_class": display.lines(group.exception_class),
            "frame": display.lines(str(group.frame)) if group.frame else "",
            "message": display.lines(group.message.partition("\n")[0][:300]),
            "count": group.count,
            "newest": group.newest,
            "oldest": group.oldest,
            "example": self.url("djjp_job_change", group.example),
            "jobs": self.url("djjp_job_changelist") + jobs,
            "retry": self.url("djjp_job_bulk", "retry") + failed,
            "sparkline": sparkline(group.counts, _at_most(group, found)),
        }


def _jobs(group: FailureGroup, wanted: Filter) -> Filter:
    """Return the filter of the jobs of a group. The times of a page of failures are those of attempts."""
    return replace(wanted, name=group.name, exception=group.exception_class, since=None, until=None)


def _at_most(group: FailureGroup, found: Failures) -> str:
    """Return the greatest of the counts of a group, in words."""
    seconds = (found.until - found.since).total_seconds() / max(len(group.counts), 1)
    words = {"most": max(group.counts, default=0), "span": display.span(seconds)}
    return _("At most %(most)s in %(span)s") % words
