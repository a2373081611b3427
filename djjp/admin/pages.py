"""`PageAdmin`: the frame of the pages that show facts about the queue, on whichever admin site they are."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from djjp.admin import display
from djjp.admin.base import QueueModelAdmin
from djjp.admin.outage import answering
from djjp.admin.rights import rights_of

#: The header of a request for what changes on a page only.
FRAGMENT_HEADER = "X-Djjp-Fragment"


class PageAdmin(QueueModelAdmin):
    """Pages in place of Django's lists and forms: nothing is added, changed or deleted by a form.

    The list of the model is `changelist_view()`, and the page of one row is `change_view()`.
    """

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return rights_of(request).view

    def has_module_permission(self, request: HttpRequest) -> bool:
        return rights_of(request).view

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def require(self, request: HttpRequest, *rights: str) -> None:
        """Refuse a user who lacks one of the rights, by their names in `Rights`.

        Raises:
            PermissionDenied: one is missing.
        """
        held = rights_of(request)
        if not all(getattr(held, right) for right in rights):
            raise PermissionDenied

    def page(
        self,
        request: HttpRequest,
        template: str,
        title: str,
        *,
        status: int = 200,
        **context: Any,
    ) -> TemplateResponse:
        """Return a page; to a request for a fragment, only its block `live`.

        Args:
            template: a template that extends "admin/djjp/page.html".
            title: the heading.
            context: further values for the template; with `live=True` the page is refreshed.
        """
        request.current_app = self.admin_site.name
        whole = {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": self.opts,
            "rights": rights_of(request),
            **context,
        }
        if FRAGMENT_HEADER in request.headers:
            whole["base"] = "admin/djjp/fragment.html"
        response = TemplateResponse(request, template, whole, status=status)
        # A cache must not return the fragment in place of the page.
        response["Vary"] = FRAGMENT_HEADER
        return response

    def url(self, name: str, *args: object) -> str:
        """Return the address of a page on this site: `url("djjp_job_changelist")`."""
        return reverse(f"admin:{name}", args=args, current_app=self.admin_site.name)

    def route(self, route: str, view: Any, name: str) -> URLPattern:
        """Return the URL of a further view, which only staff reaches, and which answers during an outage."""
        guarded: Any = answering(self.admin_site.admin_view(view))
        url: URLPattern = path(route, guarded, name=name)
        return url

    def record(
        self, request: HttpRequest, model: type[Model], pk: object, shown: str, message: str
    ) -> None:
        """Write to the admin's log what was done, after it was done: the log is on another database.

        Args:
            model, pk: the row that it was done to, for the link of the entry.
            shown: how the entry names the row.
            message: what was done, such as "Paused until 14:00."
        """
        user: Any = request.user

        def write() -> None:
            LogEntry.objects.create(
                user_id=user.pk,
                content_type=ContentType.objects.get_for_model(model, for_concrete_model=False),
                object_id=str(pk),
                object_repr=display.lines(shown)[:200],
                action_flag=CHANGE,
                change_message=message,
            )

        self.write_log(request, write, f"{shown}: {message}")

    def notify(self, request: HttpRequest, text: str, level: int = messages.SUCCESS) -> None:
        """Show a message on the next page."""
        self.message_user(request, text, level)


def dashboard_url(site: admin.AdminSite) -> str:
    """Return the address of the dashboard on a site."""
    return reverse("admin:app_list", args=["djjp"], current_app=site.name)
