"""`QueueModelAdmin`: what all admins of the queue share: the log, the way back, outages, and a page's address."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.db import DatabaseError, router, transaction
from django.db.models import Model
from django.http import HttpRequest, HttpResponseRedirect
from django.urls import URLPattern, reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _

from djjp import conf
from djjp.admin.outage import answering

logger = logging.getLogger("djjp.admin")

if TYPE_CHECKING:
    Base = admin.ModelAdmin[Any]
else:
    Base = admin.ModelAdmin


class QueueModelAdmin(Base):
    """The admin of a model on the queue's database.

    Django's log of admin actions is on the application's database, so it is written after the queue's
    transaction has ended. Otherwise an SQLite queue would stand still for as long as the application's
    database lets the log wait.
    """

    class Media:
        css = {"all": ["djjp/admin.css"]}

    def change_url(self, pk: object) -> str:
        """Return the URL of an object's page."""
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_change"
        return reverse(name, args=[pk], current_app=self.admin_site.name)

    def get_urls(self) -> list[URLPattern]:
        urls: list[URLPattern] = super().get_urls()
        for url in urls:
            url.callback = answering(url.callback)
        return urls

    def back(self, request: HttpRequest, default: str) -> HttpResponseRedirect:
        """Return to the page whose address a form has as `next`, or to another one."""
        given = request.POST.get("next", "")
        hosts = {request.get_host()}
        is_safe = url_has_allowed_host_and_scheme(given, hosts, require_https=request.is_secure())
        return HttpResponseRedirect(given if given and is_safe else default)

    def write_log(self, request: HttpRequest, write: Callable[[], object], act: str) -> None:
        """Write to the admin's log what has been done; if that fails, it stays done, and both are reported.

        Args:
            write: writes the entries.
            act: what was done, for the report.
        """
        try:
            with transaction.atomic(using=router.db_for_write(LogEntry)):
                write()
        except DatabaseError as error:
            # Without its traceback, which leads through Django only.
            text = "the admin's log lacks what %s has done: %s (%s)"
            logger.log(logging.ERROR, text, request.user, act, error)
            text = _("This is done, but the admin's log could not be written: %(error)s")
            self.message_user(request, text % {"error": error}, messages.WARNING)

    def log_changes(self, request: HttpRequest, objects: Sequence[Model], message: str) -> None:
        """Write a log entry for each of the changed objects."""
        user: Any = request.user
        if objects:
            rows = list(objects)
            self.write_log(
                request,
                lambda: LogEntry.objects.log_actions(user.pk, rows, CHANGE, message),
                f"{message} {rows[0]!s}",
            )

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        self._log_after_commit(request, partial(super().log_addition, request, obj, message), obj)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        self._log_after_commit(request, partial(super().log_change, request, obj, message), obj)

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        rows: Any = list(queryset)
        write = partial(super().log_deletions, request, rows)
        self._log_after_commit(request, write, rows[0] if rows else "")
        return []

    def _log_after_commit(
        self, request: HttpRequest, write: Callable[[], object], row: object
    ) -> None:
        act = f"{request.path} {row!s}"
        transaction.on_commit(
            lambda: self.write_log(request, write, act), using=conf.current().db_name
        )
