"""The tabs: links to the pages of the queue that a user may see on this site."""

from __future__ import annotations

from typing import NamedTuple

from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from djjp.admin.rights import Rights, rights_of


class Tab(NamedTuple):
    """A tab.

    Attributes:
        current: the value of `aria-current`: "page" for the page itself, "true" for a page beneath it, else "".
    """

    label: str | Promise
    url: str
    current: str


#: Of each tab its label, the name of its URL, and the right that its page needs.
TABS: tuple[tuple[Promise, str, str], ...] = (
    (_("Jobs"), "djjp_job_changelist", "view"),
    (_("Failures"), "djjp_job_failures", "view"),
    (_("Queues"), "djjp_queue_changelist", "view"),
    (_("Consumers"), "djjp_consumer_changelist", "view"),
    (_("Names"), "djjp_job_names", "view"),
    (_("Schedules"), "djjp_schedule_changelist", "view_schedule"),
    (_("Incidents"), "djjp_incident_changelist", "view"),
    (_("Operations"), "djjp_operation_changelist", "view"),
    (_("Outbox"), "djjp_job_outboxes", "view"),
)


def tabs(request: HttpRequest, site: str) -> list[Tab]:
    """Return the tabs that exist on a site and that the user may open.

    Args:
        site: the name of the admin site.
    """
    home = reverse("admin:app_list", args=["djjp"], current_app=site)
    found = [(_("Dashboard"), home), *_pages(rights_of(request), site)]
    beneath = [url for _label, url in found if url != home and request.path.startswith(url)]
    nearest = home if request.path == home else max(beneath, key=len, default=None)
    return [
        Tab(label, url, "" if url != nearest else "page" if url == request.path else "true")
        for label, url in found
    ]


def _pages(rights: Rights, site: str) -> list[tuple[Promise, str]]:
    found = []
    for label, name, right in TABS:
        if not getattr(rights, right):
            continue
        try:
            found.append((label, reverse(f"admin:{name}", current_app=site)))
        except NoReverseMatch:
            continue  # the site has no such page
    return found
