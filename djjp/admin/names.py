"""`NamePages`: the job names with their figures, and the page of one name."""

from __future__ import annotations

import inspect
import time
from typing import Any
from urllib.parse import urlencode

from django.contrib.admin.utils import unquote
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import URLPattern
from django.utils.translation import gettext as _

from djjp import schedules
from djjp.admin import display
from djjp.admin.histogram import picture
from djjp.admin.pages import PageAdmin
from djjp.admin.trend_charts import Charts, draw
from djjp.durations import to_datetime, unchecked_seconds
from djjp.jobs import RegisteredJob, registry
from djjp.limits import Limit, Rate
from djjp.monitoring.failures import failures
from djjp.monitoring.filters import Filter, FilterError
from djjp.monitoring.incidents import incidents
from djjp.monitoring.names import ORDERS, names, share_failed
from djjp.monitoring.releases import Comparison, compared
from djjp.monitoring.slowest import slowest
from djjp.monitoring.totals import ever, totals
from djjp.monitoring.trends import SPANS, Trend, trend

#: The names of the list at most, and the groups of failures on the page of one.
NAMES_SHOWN, GROUPS_SHOWN = 100, 10
#: Seconds for the search of the slowest jobs, and for that of failures: together below those of one list.
SEARCH_SECONDS = 0.08
#: The kinds of incidents whose subject is a job name.
OF_NAMES = ("failing", "late_results", "loop_blocked")


class NamePages(PageAdmin):
    """The pages of job names. They are beneath those of jobs: `JobAdmin` has their URLs."""

    def pages(self) -> list[URLPattern]:
        """Return the URLs, which come before that of one job."""
        return [
            self.route("names/", self.names_view, "djjp_job_names"),
            self.route("names/<path:name>/", self.name_view, "djjp_job_name"),
        ]

    def names_view(self, request: HttpRequest) -> TemplateResponse:
        """Return the page of the names of a time."""
        self.require(request, "view")
        span = SPANS.get(request.GET.get("span", ""), SPANS["24h"])
        search = request.GET.get("q", "").strip()
        order = request.GET.get("order", "ended")
        order = order if order in ORDERS else "ended"
        found = names(span.seconds, search=search, order=order, limit=NAMES_SHOWN)
        return self.page(
            request,
            "admin/djjp/names.html",
            _("Job names"),
            live=True,
            names=found.names,
            matching=found.matching,
            since=found.since,
            span=span,
            spans=SPANS.values(),
            q=search,
            order=order,
            columns=[
                (key, label, self._sorted(span.name, search, key)) for key, label in _columns()
            ],
            keep=urlencode({"q": search, "order": order}),
        )

    def _sorted(self, span: str, search: str, order: str) -> str:
        return urlencode({"span": span, "q": search, "order": order})

    def name_view(self, request: HttpRequest, name: str) -> TemplateResponse:
        """Return the page of one name."""
        self.require(request, "view")
        name = unquote(name)
        span = SPANS.get(request.GET.get("span", ""), SPANS["24h"])
        now = time.time()
        job = registry.find(name)
        [figures] = totals(now - span.seconds, name=name)
        latest = slowest(name, time_limit=SEARCH_SECONDS)
        if job is None and not figures.ended and latest.oldest is None and not ever(name):
            return self._unknown(request, name)
        return self.page(
            request,
            "admin/djjp/name.html",
            display.lines(name),
            live=True,
            name=name,
            figures=figures,
            share_failed=share_failed(figures),
            span=span,
            runs=picture(figures.runs),
            waits=picture(figures.waits),
            slowest=latest,
            failures=_failures(name, span.seconds),
            incidents=[
                each
                for each in incidents(open_only=True, limit=1_000)
                if each.kind in OF_NAMES and each.subject == name
            ],
            comparison=None if (found := compared(name)) is None else _rows(found),
            options=None if job is None else options_of(job),
            doc="" if job is None else inspect.getdoc(job.function) or "",
            schedules=schedules.of_job(name),
            charts=_charts(trend(span, name=name)),
        )

    def _unknown(self, request: HttpRequest, name: str) -> TemplateResponse:
        return self.page(
            request,
            "admin/djjp/missing.html",
            _("There is no such job name"),
            status=404,
            missing=display.lines(name),
            text=_(
                "No function is registered under it in this process, and no job of it has ended."
            ),
            back=self.url("djjp_job_names"),
            back_label=_("All job names"),
        )


def _columns() -> list[tuple[str, str]]:
    return [
        ("name", _("Name")),
        ("succeeded", _("Succeeded")),
        ("failed", _("Failed")),
        ("retried", _("Retried")),
        ("share", _("Share failed")),
        ("run_p50", _("Run p50")),
        ("run_p95", "p95"),
        ("run_p99", "p99"),
        ("wait_p50", _("Wait p50")),
        ("wait_p95", "p95"),
        ("wait_p99", "p99"),
        ("last", _("Last")),
    ]


def _charts(trend: Trend) -> Charts:
    """Return the charts of a name, which has no depth."""
    charts = draw(trend)
    return charts._replace(drawn=[each for each in charts.drawn if each.key != "depth"])


def _failures(name: str, seconds: float) -> Any:
    """Return the groups of failures of a name; None where a filter cannot have it."""
    try:
        wanted = Filter.of({"name": name, "since": f"{seconds:.0f}s"})
    except FilterError:  # a row by hand
        return None
    return failures(wanted, limit=GROUPS_SHOWN, time_limit=SEARCH_SECONDS)


def _rows(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison for the template."""
    return {
        "release": comparison.release.release,
        "at": to_datetime(comparison.release.at),
        "seconds": comparison.seconds,
        "rows": [
            (_("before"), comparison.before, share_failed(comparison.before)),
            (_("after"), comparison.after, share_failed(comparison.after)),
        ],
    }


def options_of(job: RegisteredJob[..., Any]) -> list[tuple[str, str]]:
    """Return the options of a registered job that say something, with their values in words."""
    options, function = job.options, job.function
    try:
        place = f"{inspect.getsourcefile(function)}:{inspect.getsourcelines(function)[1]}"
    except (OSError, TypeError):
        place = ""
    found = {
        _("function"): place,
        _("kind"): _("coroutine") if job.is_coroutine else _("plain function"),
        _("queue"): options.queue,
        _("priority"): str(options.priority) if options.priority else "",
        _("timeout"): _span(options.timeout),
        _("attempts at most"): "" if options.max_attempts is None else str(options.max_attempts),
        _("when its consumer dies"): _("it fails")
        if options.on_crash == "fail"
        else _("it runs again"),
        _("limit"): _limit(options.limit),
        _("unique key"): "" if options.unique_key is None else _key(options.unique_key),
        _("expires after"): _span(options.expires_after),
        _("tags"): ", ".join(options.tags),
    }
    return [(label, display.lines(value)) for label, value in found.items() if value]


def _span(value: Any) -> str:
    return "" if value is None else display.span(float(unchecked_seconds(value)))


def _limit(limit: Limit | Rate | None) -> str:
    if limit is None:
        return ""
    per = float(unchecked_seconds(limit.per)) if isinstance(limit, Rate) else None
    return display.limit(_key(limit.key), limit.most, per) or ""


def _key(key: Any) -> str:
    return (
        key
        if isinstance(key, str)
        else _("computed by %(function)s") % {"function": getattr(key, "__qualname__", repr(key))}
    )
