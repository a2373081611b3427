"""`QueueModelAdmin`: what the admins of jobs and schedules share: the log, buttons, and the page's URL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import URLPattern, path, reverse

from djjp import conf

if TYPE_CHECKING:
    Base = admin.ModelAdmin[Any]
else:
    Base = admin.ModelAdmin


class QueueModelAdmin(Base):
    """The admin of a model on the queue's database, with buttons on an object's page.

    Django's log of admin actions is on the application's database, so it is written after the queue's
    transaction has ended. Otherwise an SQLite queue would stand still for as long as the application's
    database lets the log wait.

    Attributes:
        button_names: the buttons. `has_<name>_permission(request)` guards each, `press()` executes it.
        pk_converter: the path converter of the primary key.
    """

    button_names: Sequence[str] = ()
    pk_converter = "int"

    class Media:
        css = {"all": ["djjp/admin.css"]}

    def press(self, request: HttpRequest, name: str, queryset: QuerySet[Any]) -> None:
        """Execute a button for the objects of a queryset."""
        raise NotImplementedError

    def may_press(self, request: HttpRequest, name: str) -> bool:
        """Return whether the user has the permission for a button."""
        allowed: bool = getattr(self, f"has_{name}_permission")(request)
        return allowed

    def change_url(self, pk: object) -> str:
        """Return the URL of an object's page."""
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_change"
        return reverse(name, args=[pk], current_app=self.admin_site.name)

    def get_urls(self) -> list[URLPattern]:
        buttons = [
            path(
                f"<{self.pk_converter}:pk>/{name}/",
                self.admin_site.admin_view(self._button_view),
                {"name": name},
                name=f"{self.opts.app_label}_{self.opts.model_name}_{name}",
            )
            for name in self.button_names
        ]
        return [*buttons, *super().get_urls()]

    def _button_view(self, request: HttpRequest, pk: object, name: str) -> HttpResponse:
        """Execute a button on an object's page and return to that page."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not self.may_press(request, name):
            raise PermissionDenied
        self.press(request, name, self.get_queryset(request).filter(pk=pk))
        context: dict[str, Any] = {
            "preserved_filters": self.get_preserved_filters(request),
            "opts": self.opts,
        }
        return HttpResponseRedirect(add_preserved_filters(context, self.change_url(pk)))

    def log_changes(self, request: HttpRequest, objects: Sequence[Model], message: str) -> None:
        """Write a log entry for each of the changed objects."""
        user: Any = request.user
        if objects:
            LogEntry.objects.log_actions(user.pk, list(objects), CHANGE, message)

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        log = super().log_addition
        transaction.on_commit(lambda: log(request, obj, message), using=conf.current().db_name)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        log = super().log_change
        transaction.on_commit(lambda: log(request, obj, message), using=conf.current().db_name)

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        objects: Any = list(queryset)
        log = super().log_deletions
        transaction.on_commit(lambda: log(request, objects), using=conf.current().db_name)
        return []
