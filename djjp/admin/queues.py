"""`QueueAdmin`: the list of queues, the page of one, and the forms that pause and resume them."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.admin.utils import quote, unquote
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.template.response import TemplateResponse
from django.urls import URLPattern
from django.utils.translation import gettext as _

from djjp import queues
from djjp.admin import display, pausing
from djjp.admin.dashboard import span_of
from djjp.admin.pages import PageAdmin
from djjp.admin.trend_charts import draw
from djjp.models import Queue
from djjp.monitoring.consumers import consumers
from djjp.monitoring.incidents import Incident, incidents
from djjp.monitoring.names import share_failed
from djjp.monitoring.overview import QueueInfo, queue_infos
from djjp.monitoring.queues import known_queues, named_queues
from djjp.monitoring.totals import Figures, totals
from djjp.monitoring.trends import SPANS, Span, trend
from djjp.served import Servers

#: The number of job names that the page of a queue shows, and of queues that a page of the list has.
NAMES_SHOWN, QUEUES_SHOWN = 20, 100
#: The kinds of incidents whose subject is a queue.
OF_QUEUES = ("no_consumer", "wait", "backlog")


class QueueAdmin(PageAdmin):
    """Queues: how many jobs each has, who serves it, and whether it is paused."""

    def get_urls(self) -> list[URLPattern]:
        return [
            self.route("<path:name>/pause/", self.pause_view, "djjp_queue_pause"),
            self.route("<path:name>/resume/", self.resume_view, "djjp_queue_resume"),
            *super().get_urls(),
        ]

    # Pages

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        self.require(request, "view")
        found = queue_infos(also=named_queues())
        wanted, after = request.GET.get("q", "").strip(), request.GET.get("after", "")
        matching = [each for each in found if wanted.casefold() in each.name.casefold()]
        rest = [each for each in matching if each.name > after]
        shown = rest[:QUEUES_SHOWN]
        given, more = {"q": wanted} if wanted else {}, len(rest) > QUEUES_SHOWN
        return self.page(
            request,
            "admin/djjp/queues.html",
            _("Queues"),
            live=True,
            queues=shown,
            matching=len(matching),
            total=len(found),
            q=wanted,
            first=f"?{urlencode(given)}" if after else "",
            following=f"?{urlencode({**given, 'after': shown[-1].name})}" if more else "",
        )

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> TemplateResponse:
        self.require(request, "view")
        return self._page_of(request, unquote(object_id))

    def _page_of(
        self, request: HttpRequest, name: str, *, error: str = "", status: int = 200
    ) -> TemplateResponse:
        """Return the page of a queue.

        Args:
            error: why the form of its pause was refused.
        """
        serving = consumers()
        found = next(each for each in queue_infos(serving, also=[name]) if each.name == name)
        is_known = _has_anything(found) or name in known_queues()
        if not is_known:
            return self._unknown(request, name)
        span = span_of(request)
        now = time.time()
        opened = _open_incidents(name)
        names = sorted(totals(now - span.seconds, queue=name, by="name"), key=_ends, reverse=True)
        return self.page(
            request,
            "admin/djjp/queue.html",
            _("Queue %s") % display.lines(name),
            status=status,
            live=True,
            queue=found,
            span=span,
            totals=[(each, _total(name, each, now)) for each in SPANS.values()],
            names=[(each, share_failed(each)) for each in names[:NAMES_SHOWN]],
            more_names=len(names) > NAMES_SHOWN,
            charts=draw(trend(span, queue=name)),
            incidents=opened,
            is_reported=any(each.kind == "no_consumer" for each in opened),
            servers=Servers((each.queues, each) for each in serving).of(name),
            choices=pausing.CHOICES,
            error=error,
            given=request.POST,
        )

    def _unknown(self, request: HttpRequest, name: str) -> TemplateResponse:
        return self.page(
            request,
            "admin/djjp/missing.html",
            _("There is no such queue"),
            status=404,
            missing=display.lines(name),
            text=_("No job, consumer, pause or registered function names a queue like this."),
            back=self.url("djjp_queue_changelist"),
            back_label=_("All queues"),
        )

    # Pause and resume

    def pause_view(self, request: HttpRequest, name: str) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        self.require(request, "view", "pause")
        queue = unquote(name)
        try:
            seconds = pausing.seconds_of(
                request.POST.get("duration", ""), request.POST.get("own", ""), datetime.now(UTC)
            )
            until = queues.pause(queue, seconds)
        except ValueError as error:
            return self._page_of(request, queue, error=str(error), status=422)
        shown = display.lines(queue)
        if until is None:
            text = _("Paused until it is resumed.")
        else:
            text = _("Paused until %(time)s.") % {"time": display.exact(until)}
        self.record(request, Queue, queue, shown, text)
        self.notify(request, f"{shown}: {text}")
        return self.back(request, self.url("djjp_queue_change", quote(queue)))

    def resume_view(self, request: HttpRequest, name: str) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        self.require(request, "view", "pause")
        queue = unquote(name)
        shown = display.lines(queue)
        if queues.resume(queue):
            done = _("Resumed.")
            self.record(request, Queue, queue, shown, done)
            self.notify(request, f"{shown}: {done}")
        else:
            self.notify(request, _("%s: It was not paused.") % shown, messages.WARNING)
        return self.back(request, self.url("djjp_queue_change", quote(queue)))


def _has_anything(queue: QueueInfo) -> bool:
    return any(queue.counts.values()) or queue.is_paused


def _ends(figures: Figures) -> int:
    return figures.ended + figures.retried


def _total(queue: str, span: Span, now: float) -> Figures:
    [figures] = totals(now - span.seconds, queue=queue)
    return figures


def _open_incidents(queue: str) -> list[Incident]:
    return [
        each
        for each in incidents(open_only=True, limit=1_000)
        if each.kind in OF_QUEUES and each.subject == queue
    ]
