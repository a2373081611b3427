"""`OutboxPages`: the outbox of each application database: what waits, and what the queue refuses."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.admin.utils import quote, unquote
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern
from django.utils.translation import gettext as _

from djjp.admin import display
from djjp.admin.pages import PageAdmin
from djjp.admin.rights import rights_of
from djjp.models import Job
from djjp.monitoring.outboxes import WaitingCall, outbox
from djjp.outbox import table

# The rows that are set aside among which one is searched.
_MOST_SET_ASIDE = 1_000


class OutboxPages(PageAdmin):
    """The pages of outboxes. They are beneath those of jobs: `JobAdmin` has their URLs."""

    def pages(self) -> list[URLPattern]:
        """Return the URLs, which come before that of one job."""
        return [
            self.route("outbox/", self.outboxes_view, "djjp_job_outboxes"),
            self.route("outbox/<path:alias>/relay/", self.relay_view, "djjp_job_outbox_relay"),
            self.route("outbox/<path:alias>/delete/", self.drop_view, "djjp_job_outbox_delete"),
            self.route("outbox/<path:alias>/", self.outbox_view, "djjp_job_outbox"),
        ]

    def outboxes_view(self, request: HttpRequest) -> TemplateResponse:
        """Return the page of all outboxes."""
        self.require(request, "view")
        return self.page(
            request,
            "admin/djjp/outboxes.html",
            _("Outboxes"),
            live=True,
            outboxes=[outbox(alias, limit=1) for alias in table.outboxes()],
        )

    def outbox_view(self, request: HttpRequest, alias: str) -> TemplateResponse:
        """Return the page of one outbox."""
        self.require(request, "view")
        alias = unquote(alias)
        if alias not in table.outboxes():
            return self._unknown(request, alias)
        found = outbox(alias)
        return self.page(
            request,
            "admin/djjp/outbox.html",
            _("Outbox of %s") % display.lines(alias),
            live=True,
            outbox=found,
            calls=[_call(each, rights_of(request).arguments) for each in found.calls],
            first=len(found.calls),
        )

    def _unknown(self, request: HttpRequest, alias: str) -> TemplateResponse:
        return self.page(
            request,
            "admin/djjp/missing.html",
            _("There is no such outbox"),
            status=404,
            missing=display.lines(alias[:100]),
            text=_("DJJP['outbox'] has the databases with an outbox, if djjp.outbox is installed."),
            back=self.url("djjp_job_outboxes"),
            back_label=_("All outboxes"),
        )

    def relay_view(self, request: HttpRequest, alias: str) -> HttpResponse:
        """Have a row that is set aside relayed again."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        self.require(request, "view", "operate")
        alias = unquote(alias)
        row = _set_aside(alias, request.POST.get("key", ""))
        if row is None:
            return self._gone(request, alias)
        table.restore(alias, row.key)
        return self._done(request, alias, row, _("Relayed again."))

    def drop_view(self, request: HttpRequest, alias: str) -> HttpResponse:
        """Ask for confirmation; delete a row that is set aside once that is given."""
        self.require(request, "view", "delete")
        alias = unquote(alias)
        given = request.POST if request.method == "POST" else request.GET
        row = _set_aside(alias, given.get("key", ""))
        if row is None:
            return self._gone(request, alias)
        if request.method != "POST":
            return self.page(
                request,
                "admin/djjp/outbox_delete.html",
                _("Delete this job?"),
                row=row,
                alias=alias,
                back=self.url("djjp_job_outbox", quote(alias)),
            )
        table.drop(alias, row.key)
        return self._done(request, alias, row, _("Deleted from the outbox."))

    def _done(
        self, request: HttpRequest, alias: str, row: table.SetAside, text: str
    ) -> HttpResponseRedirect:
        shown = display.lines(str(row.key))
        self.record(request, Job, row.key, shown, text)
        self.notify(request, f"{shown}: {text}")
        return HttpResponseRedirect(self.url("djjp_job_outbox", quote(alias)))

    def _gone(self, request: HttpRequest, alias: str) -> HttpResponse:
        if alias not in table.outboxes():
            return self._unknown(request, alias)
        self.notify(request, _("It is not set aside any more."), messages.WARNING)
        return HttpResponseRedirect(self.url("djjp_job_outbox", quote(alias)))


def _set_aside(alias: str, key: str) -> table.SetAside | None:
    """Return the row of an outbox that is set aside and has this key; None if there is none."""
    if not key or alias not in table.outboxes():
        return None
    return next(
        (row for row in table.rows_set_aside(alias, _MOST_SET_ASIDE) if str(row.key) == key), None
    )


def _call(call: WaitingCall, with_arguments: bool) -> dict[str, Any]:
    """Return a call that waits for the template; its arguments only with the right to see them."""
    if not with_arguments or call.arguments is None:
        return {"call": call, "arguments": None}
    arguments = display.split_arguments(call.name, call.arguments, call.flags)
    return {"call": call, "arguments": arguments}
