"""`IncidentAdmin`: what is wrong now, with its remedies, what was, and the page of one incident."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib.admin.utils import unquote
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils.translation import gettext as _

from djjp.admin import display
from djjp.admin.advice import ADVICE
from djjp.admin.pages import PageAdmin
from djjp.admin.remedies import Offer, offer
from djjp.admin.rights import rights_of
from djjp.monitoring.detection import look
from djjp.monitoring.incidents import KINDS, Incident, closed, incident, incidents

#: The number of closed incidents on a page.
CLOSED_SHOWN = 50


class IncidentAdmin(PageAdmin):
    """Incidents: the open ones first, then their history of 30 days."""

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        self.require(request, "view")
        look()
        kind = request.GET.get("kind", "")
        kind = kind if kind in KINDS else ""
        before = _id(request.GET.get("before", ""))
        opened = incidents(open_only=True, limit=1_000)
        history = closed(kind=kind, before=before, limit=CLOSED_SHOWN + 1)
        more = len(history) > CLOSED_SHOWN
        shown = history[:CLOSED_SHOWN]
        older = {"kind": kind} if kind else {}
        return self.page(
            request,
            "admin/djjp/incidents.html",
            _("Incidents"),
            live=True,
            opened=[self._offer(request, each) for each in opened if kind in ("", each.kind)],
            is_quiet=not opened,
            history=shown,
            kind=kind,
            kinds=KINDS,
            is_first=before is None,
            older=urlencode({**older, "before": shown[-1].id.hex}) if more else "",
        )

    def _offer(self, request: HttpRequest, found: Incident) -> Offer:
        """Return an incident with what can be done about it."""
        return offer(found, rights_of(request), self.admin_site.name)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> TemplateResponse:
        self.require(request, "view")
        id = _id(unquote(object_id))
        found = None if id is None else incident(id)
        if found is None:
            return self.page(
                request,
                "admin/djjp/missing.html",
                _("There is no such incident"),
                status=404,
                missing=display.lines(unquote(object_id)[:100]),
                text=_("Closed incidents are kept for 30 days."),
                back=self.url("djjp_incident_changelist"),
                back_label=_("All incidents"),
            )
        return self.page(
            request,
            "admin/djjp/incident.html",
            display.lines(f"{found.kind} {found.subject}".strip()),
            live=True,
            incident=found,
            offer=self._offer(request, found),
            facts=[(key.replace("_", " "), _fact(value)) for key, value in found.facts.items()],
            advice=ADVICE.get(found.kind, ""),
        )


def _id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _fact(value: Any) -> str:
    """Return a fact as text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    if isinstance(value, int):
        return display.number(value)
    return display.number(f"{value:.1f}") if isinstance(value, float) else display.lines(str(value))
