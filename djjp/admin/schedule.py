"""`ScheduleAdmin`: what runs by itself, and what people may do about it.

Who may change schedules may enable and disable them and run one now. One that the code declares is
written by consumers, so that only its switch can be set here; it can be deleted once its code is gone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from djjp import conf, engine, schedules
from djjp.admin import display as show
from djjp.admin.schedule_form import WHEN, WRITTEN, ScheduleForm
from djjp.durations import to_datetime
from djjp.models import Schedule, Source

if TYPE_CHECKING:
    Base = admin.ModelAdmin[Schedule]
else:
    Base = admin.ModelAdmin

_NOTHING = SafeString("-")
# What a page shows of the code's schedules, and nobody can edit.
_CODES = ("name", "job", *WHEN, "catch_up", "positional", "keyword")


@admin.register(Schedule)
class ScheduleAdmin(Base):
    """Schedules in the admin."""

    form = ScheduleForm
    list_display = ("name", "job", "when", "enabled", "next_or_trouble", "last", "source")
    list_filter = ("enabled", "source")
    search_fields = ("name", "job")
    ordering = ("name", "pk")
    sortable_by = ("name", "job")
    actions = ("enable_selected", "disable_selected", "run_selected")
    fieldsets = (
        (None, {"fields": ("name", "job", "enabled")}),
        ("When", {"fields": (*WHEN, "catch_up")}),
        ("Arguments", {"fields": ("positional", "keyword")}),
    )

    class Media:
        css = {"all": ["djjp/admin.css"]}

    # What may be done

    def has_delete_permission(self, request: HttpRequest, obj: Schedule | None = None) -> bool:
        """Not for one that the code declares: the next consumer to start would write it anew."""
        declared = obj is not None and schedules.is_in_code(obj)
        return not declared and super().has_delete_permission(request, obj)

    def get_readonly_fields(self, request: HttpRequest, obj: Schedule | None = None) -> Any:
        ours = ("source", "upcoming", "last", "trouble")
        return (*ours, *_CODES) if obj is not None and obj.source == Source.CODE else ours

    def get_fieldsets(self, request: HttpRequest, obj: Schedule | None = None) -> Any:
        if obj is None:
            return self.fieldsets
        (title, first), *others = self.fieldsets
        if obj.source == Source.CODE:
            said = "From the code: here it is only switched on and off."
            first = {**first, "description": said}
        told = {
            "fields": ("source", "upcoming", "last", "trouble"),
            # Which need not be the schedule's own.
            "description": f"Times in the time zone {timezone.get_current_timezone_name()}.",
        }
        return ((title, first), *others, ("State", told))

    def get_form(
        self, request: HttpRequest, obj: Schedule | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        if obj is not None and obj.source == Source.CODE:
            kwargs["form"] = forms.ModelForm
        return super().get_form(request, obj, change=change, **kwargs)

    # What is shown

    @admin.display(description="when")
    def when(self, row: Schedule) -> str:
        return schedules.when(row)

    @admin.display(description="next")
    def next_or_trouble(self, row: Schedule) -> str:
        """For the list, in which a column of troubles would be empty as a rule."""
        return schedules.problem(row) or self.upcoming(row)

    @admin.display(description="next")
    def upcoming(self, row: Schedule) -> SafeString:
        """Its next slot, where it is enabled and can be fired by what is registered here."""
        if not row.enabled or schedules.problem(row) is not None:
            return _NOTHING
        return _moment(schedules.next_occurrence(row))

    @admin.display(description="last")
    def last(self, row: Schedule) -> SafeString:
        """Its last slot, with the way to the job that came of it."""
        moment = _moment(row.last_occurrence)
        if row.last_job is None:
            return moment
        return format_html('<a href="{}">{}</a>', self._job_url(row.last_job), moment)

    @admin.display(description="trouble")
    def trouble(self, row: Schedule) -> str:
        """Why it can't be fired by what is registered here."""
        return schedules.problem(row) or _NOTHING

    @admin.display(description="positional arguments")
    def positional(self, row: Schedule) -> SafeString:
        return show.block(show.split_arguments(row.arguments)[0])

    @admin.display(description="keyword arguments")
    def keyword(self, row: Schedule) -> SafeString:
        return show.block(show.split_arguments(row.arguments)[1] or "")

    def _job_url(self, job: object) -> str:
        return reverse("admin:djjp_job_change", args=[job], current_app=self.admin_site.name)

    # What is done

    def save_model(self, request: HttpRequest, obj: Schedule, form: Any, change: bool) -> None:
        """Write what the form says, and nothing that consumers write."""
        if not change:
            obj.fired_until = time.time()
            obj.save()
            return
        fields = ["enabled"] if obj.source == Source.CODE else list(WRITTEN)
        if {*WHEN} & {*form.changed_data} or ("enabled" in form.changed_data and obj.enabled):
            # It goes on with its next slot.
            obj.fired_until = time.time()
            fields.append("fired_until")
        obj.save(update_fields=fields)

    def delete_model(self, request: HttpRequest, obj: Schedule) -> None:
        engine.current().schedules.delete([obj.pk])

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Schedule]) -> None:
        engine.current().schedules.delete(list(queryset.values_list("pk", flat=True)))

    @admin.action(permissions=["change"], description="Enable selected %(verbose_name_plural)s")
    def enable_selected(self, request: HttpRequest, queryset: QuerySet[Schedule]) -> None:
        self._switch(request, queryset, enabled=True)

    @admin.action(permissions=["change"], description="Disable selected %(verbose_name_plural)s")
    def disable_selected(self, request: HttpRequest, queryset: QuerySet[Schedule]) -> None:
        self._switch(request, queryset, enabled=False)

    @admin.action(permissions=["change"], description="Run selected %(verbose_name_plural)s now")
    def run_selected(self, request: HttpRequest, queryset: QuerySet[Schedule]) -> None:
        for row in queryset:
            self._run(request, row)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self._run_view)
        return [path("<int:pk>/run/", view, name="djjp_schedule_run"), *super().get_urls()]

    def _run_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The button on a schedule's page."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not self.has_change_permission(request):
            raise PermissionDenied
        for row in self.get_queryset(request).filter(pk=pk):
            self._run(request, row)
        page = reverse("admin:djjp_schedule_change", args=[pk], current_app=self.admin_site.name)
        return HttpResponseRedirect(page)

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Schedule | None = None,
    ) -> HttpResponse:
        context["may_run"] = (
            obj is not None
            and self.has_change_permission(request)
            and schedules.problem(obj) is None
        )
        return super().render_change_form(request, context, add, change, form_url, obj)

    def _switch(self, request: HttpRequest, queryset: QuerySet[Schedule], *, enabled: bool) -> None:
        rows = list(queryset.exclude(enabled=enabled))
        ids = [row.pk for row in rows]
        count = engine.run(lambda engine: engine.schedules.enable(ids, enabled, time.time()))
        done = "Enabled" if enabled else "Disabled"
        self._log(request, rows, f"{done}.")
        self.message_user(request, f"{done} {show.count(count, 'schedule')}.", messages.SUCCESS)

    def _run(self, request: HttpRequest, row: Schedule) -> None:
        try:
            handle = schedules.run_now(row)
        except Exception as error:  # noqa: BLE001  (the key of a limit is made by users' code)
            self.message_user(request, f"{row.name}: {error}", messages.ERROR)
            return
        self._log(request, [row], f"Run now: job {handle.id}.")
        said = format_html(
            '{} is enqueued as <a href="{}">job {}</a>.',
            row.name,
            self._job_url(handle.id),
            handle.id,
        )
        self.message_user(request, said, messages.SUCCESS)

    # The log is the application's: it is written once the queue's transaction is over. On SQLite the queue
    # would stand still for as long as the application's database lets the log wait.

    def _log(self, request: HttpRequest, rows: Sequence[Schedule], said: str) -> None:
        user: Any = request.user
        if rows:
            LogEntry.objects.log_actions(user.pk, list(rows), CHANGE, said)

    def log_addition(self, request: HttpRequest, obj: Schedule, message: Any) -> Any:
        log = super().log_addition
        transaction.on_commit(lambda: log(request, obj, message), using=conf.current().db_name)

    def log_change(self, request: HttpRequest, obj: Schedule, message: Any) -> Any:
        log = super().log_change
        transaction.on_commit(lambda: log(request, obj, message), using=conf.current().db_name)

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        rows: Any = list(queryset)
        log = super().log_deletions
        transaction.on_commit(lambda: log(request, rows), using=conf.current().db_name)
        return []


def _moment(seconds: float | None) -> SafeString:
    return show.moment(None if seconds is None else to_datetime(seconds)) or _NOTHING
