"""`ScheduleAdmin`: the list of schedules, the page of one, and the actions on them.

The permission to change schedules allows to enable and disable them and to run one now. A schedule that the
code declares is written by consumers, so only its switch can be changed here; it can be deleted once its
code is gone.
"""

from __future__ import annotations

import time
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from djjp import engine, schedules
from djjp.admin import display
from djjp.admin.base import QueueModelAdmin
from djjp.admin.schedule_form import WRITTEN, ScheduleForm
from djjp.durations import to_datetime
from djjp.engine.schedules import WHEN
from djjp.models import Schedule, Source

# Fields of a schedule that the code declares: shown, but not editable.
_DECLARED = ("name", "job", *WHEN, "catch_up", "positional", "keyword")


@admin.register(Schedule)
class ScheduleAdmin(QueueModelAdmin):
    """Schedules in the admin."""

    form = ScheduleForm
    list_display = ("name", "job", "when", "enabled", "next_or_trouble", "last", "source")
    list_filter = ("enabled", "source")
    search_fields = ("name", "job")
    ordering = ("name", "pk")
    sortable_by = ("name", "job")
    button_names = ("run",)
    actions = ("enable_selected", "disable_selected", "run_selected")
    fieldsets = (
        (None, {"fields": ("name", "job", "enabled")}),
        ("When", {"fields": (*WHEN, "catch_up")}),
        ("Arguments", {"fields": ("positional", "keyword")}),
    )

    # Permissions and fields

    def has_delete_permission(self, request: HttpRequest, obj: Schedule | None = None) -> bool:
        """Refuse for a schedule that the code declares: the next consumer to start would write it again."""
        declared = obj is not None and schedules.is_in_code(obj)
        return not declared and super().has_delete_permission(request, obj)

    def get_readonly_fields(self, request: HttpRequest, obj: Schedule | None = None) -> Any:
        computed = ("source", "upcoming", "last", "trouble")
        return (
            (*computed, *_DECLARED) if obj is not None and obj.source == Source.CODE else computed
        )

    def get_fieldsets(self, request: HttpRequest, obj: Schedule | None = None) -> Any:
        if obj is None:
            return self.fieldsets
        (title, first), *others = self.fieldsets
        if obj.source == Source.CODE:
            description = "Declared by the code: only its switch can be changed here."
            first = {**first, "description": description}
        state = {
            "fields": ("source", "upcoming", "last", "trouble"),
            # The current time zone is not necessarily the schedule's own.
            "description": f"Times in the time zone {timezone.get_current_timezone_name()}.",
        }
        return ((title, first), *others, ("State", state))

    def get_form(
        self, request: HttpRequest, obj: Schedule | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        if obj is not None and obj.source == Source.CODE:
            kwargs["form"] = forms.ModelForm
        return super().get_form(request, obj, change=change, **kwargs)

    # Columns

    @admin.display(description="when")
    def when(self, row: Schedule) -> str:
        return schedules.when(row)

    @admin.display(description="next")
    def next_or_trouble(self, row: Schedule) -> str:
        """Return both in one column of the list, because a column of troubles would usually be empty."""
        return schedules.problem(row) or self.upcoming(row)

    @admin.display(description="next")
    def upcoming(self, row: Schedule) -> SafeString:
        """Return the next occurrence, if the schedule is enabled and this process can fire it."""
        if not row.enabled or schedules.problem(row) is not None:
            return display.NOTHING
        return _timestamp(schedules.next_occurrence(row))

    @admin.display(description="last")
    def last(self, row: Schedule) -> SafeString:
        """Return the last occurrence, with a link to its job."""
        when = _timestamp(row.last_occurrence)
        if row.last_job is None:
            return when
        return format_html('<a href="{}">{}</a>', self._job_url(row.last_job), when)

    @admin.display(description="trouble")
    def trouble(self, row: Schedule) -> str:
        """Return why this process cannot fire the schedule."""
        return schedules.problem(row) or display.NOTHING

    @admin.display(description="positional arguments")
    def positional(self, row: Schedule) -> SafeString:
        return display.block(display.split_arguments(row.arguments)[0])

    @admin.display(description="keyword arguments")
    def keyword(self, row: Schedule) -> SafeString:
        return display.block(display.split_arguments(row.arguments)[1] or "")

    def _job_url(self, job: object) -> str:
        return reverse("admin:djjp_job_change", args=[job], current_app=self.admin_site.name)

    # Actions

    def save_model(self, request: HttpRequest, obj: Schedule, form: Any, change: bool) -> None:
        """Write the form's fields, and no column that consumers write."""
        if not change:
            obj.fired_until = time.time()
            obj.save()
            return
        fields = ["enabled"] if obj.source == Source.CODE else list(WRITTEN)
        if {*WHEN} & {*form.changed_data} or ("enabled" in form.changed_data and obj.enabled):
            # It continues with its next occurrence.
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

    def has_run_permission(self, request: HttpRequest) -> bool:
        return self.has_change_permission(request)

    def press(self, request: HttpRequest, name: str, queryset: QuerySet[Schedule]) -> None:
        for row in queryset:
            self._run(request, row)

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
        self.log_changes(request, rows, f"{done}.")
        self.message_user(request, f"{done} {display.count(count, 'schedule')}.", messages.SUCCESS)

    def _run(self, request: HttpRequest, row: Schedule) -> None:
        try:
            handle = schedules.run_now(row)
        except Exception as error:  # noqa: BLE001  (users' code computes the key of a limit)
            self.message_user(request, f"{row.name}: {error}", messages.ERROR)
            return
        self.log_changes(request, [row], f"Run now: job {handle.id}.")
        message = format_html(
            '{} is enqueued as <a href="{}">job {}</a>.',
            row.name,
            self._job_url(handle.id),
            handle.id,
        )
        self.message_user(request, message, messages.SUCCESS)


def _timestamp(seconds: float | None) -> SafeString:
    return display.timestamp(None if seconds is None else to_datetime(seconds)) or display.NOTHING
