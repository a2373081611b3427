"""`OperationAdmin`: operations on many jobs: their history, and the progress of each."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
)
from django.urls import URLPattern
from django.utils.translation import gettext as _

from djjp.admin import display, reasons
from djjp.admin.bulk import WORDINGS, may_do, sentence_of
from djjp.admin.filtering import bare_id, query_of
from djjp.admin.pages import PageAdmin
from djjp.admin.rights import rights_of
from djjp.models import Operation, Progression
from djjp.monitoring import Filter, FilterError, operations
from djjp.monitoring.operations import OperationInfo

#: The operations on a page.
PAGE = 50
#: The seconds for which a page works on an operation without consumers, and those after the button "Go on".
REFRESH_TIME, GO_ON_TIME = 0.15, 2.0
#: The worker of the pages of all processes: each step is fenced by its position.
WORKER = "admin"
_BADGES = {
    Progression.DONE: "good",
    Progression.FAILED: "bad",
    Progression.STOPPED: "warn",
}


class OperationAdmin(PageAdmin):
    """Operations in the admin."""

    def get_urls(self) -> list[URLPattern]:
        return [
            self.route("<uuid:pk>/stop/", self.stop_view, "djjp_operation_stop"),
            self.route("<uuid:pk>/go-on/", self.go_on_view, "djjp_operation_go_on"),
            *super().get_urls(),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        self.require(request, "view")
        before = bare_id(request.GET.get("before", ""))
        found = operations.operations(limit=PAGE + 1, before=before)
        return self.page(
            request,
            "admin/djjp/operation/list.html",
            _("Operations"),
            live=True,
            operations=[self._facts(each) for each in found[:PAGE]],
            older=found[PAGE - 1].id if len(found) > PAGE else None,
            is_first=before is None,
            address=self.url("djjp_operation_changelist"),
        )

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        self.require(request, "view")
        info = self._operation(object_id)
        may_act = may_do(rights_of(request), info.verb)
        if may_act and not info.has_ended:
            info = operations.go_on(info.id, WORKER, time_limit=REFRESH_TIME) or info
        facts = self._facts(info)
        return self.page(
            request,
            "admin/djjp/operation/page.html",
            f"{facts['label']}: {facts['jobs']}",
            live=not info.has_ended,
            operation=facts,
            may_act=may_act and not info.has_ended,
        )

    def stop_view(self, request: HttpRequest, pk: object) -> HttpResponse:
        """Stop an operation before its next step."""
        info = self._of_post(request, pk)
        if isinstance(info, HttpResponse):
            return info
        stopped = operations.stop(info.id) or info
        if stopped.state is Progression.STOPPED and not info.has_ended:
            done = _("Stopped.") + " " + sentence_of(stopped)
            self.record(request, Operation, info.id, str(self._facts(info)["jobs"]), done)
            self.notify(request, done)
        else:
            self.notify(request, _("It had ended already."), messages.WARNING)
        return HttpResponseRedirect(self.url("djjp_operation_change", info.id))

    def go_on_view(self, request: HttpRequest, pk: object) -> HttpResponse:
        """Work on an operation for a moment, where no consumer does."""
        info = self._of_post(request, pk)
        if isinstance(info, HttpResponse):
            return info
        operations.go_on(info.id, WORKER, time_limit=GO_ON_TIME)
        return HttpResponseRedirect(self.url("djjp_operation_change", info.id))

    def _of_post(self, request: HttpRequest, pk: object) -> OperationInfo | HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        self.require(request, "view")
        info = self._operation(pk)
        if not may_do(rights_of(request), info.verb):
            raise PermissionDenied
        return info

    def _operation(self, pk: object) -> OperationInfo:
        id = bare_id(str(pk))
        info = None if id is None else operations.get(id)
        if info is None:
            raise Http404(_("There is no such operation; they are kept for 30 days."))
        return info

    def _facts(self, info: OperationInfo) -> dict[str, Any]:
        """Return what the pages show of an operation."""
        wanted = _filter(info)
        return {
            "info": info,
            "url": self.url("djjp_operation_change", info.id),
            "label": WORDINGS[info.verb].label,
            "argument": display.lines(info.argument),
            "argument_label": WORDINGS[info.verb].argument,
            "requested_by": display.lines(info.requested_by),
            "error": display.lines(info.error),
            "considered": display.number(info.matched),
            "done": display.number(info.done),
            "badge": _BADGES.get(info.state, "busy"),
            "state": Progression(info.state).label,
            "jobs": _jobs(info),
            "jobs_url": None
            if wanted is None
            else self.url("djjp_job_changelist") + query_of(wanted),
            "left_alone": display.number(sum(info.skipped.values())),
            "reasons": reasons.of_many(info.skipped),
            "took": display.duration(info.started_at, info.finished_at),
        }


def _filter(info: OperationInfo) -> Filter | None:
    """Return the filter of an operation; None for one on ids, or of a row that this version cannot read."""
    try:
        return None if info.filter is None else Filter.parse(info.filter)
    except FilterError:
        return None


def _jobs(info: OperationInfo) -> str:
    """Return the jobs of an operation as text."""
    if info.filter is None:
        return _("chosen jobs")
    return display.lines(info.filter) or _("all jobs")
