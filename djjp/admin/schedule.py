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
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
)
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from djjp import engine, schedules
from djjp.admin import display, schedule_times
from djjp.admin.base import QueueModelAdmin
from djjp.admin.outage import answering
from djjp.admin.rights import rights_of
from djjp.admin.schedule_form import WRITTEN, ScheduleForm, ScheduleFormWithoutArguments
from djjp.admin.schedule_list import FILTERS, ScheduleList, escape
from djjp.durations import to_datetime
from djjp.engine.schedules import WHEN
from djjp.models import Schedule, Source, State
from djjp.monitoring import detection
from djjp.monitoring.upcoming import ScheduleInfo, infos

# Fields of a schedule that the code declares: shown, but not editable.
_STATE = ("source", "upcoming", "last", "trouble")
_DECLARED = ("name", "job", *WHEN, "catch_up", "positional", "keyword")


class ScheduleAdmin(QueueModelAdmin):
    """Schedules in the admin."""

    form = ScheduleForm
    list_display = ("name", "job", "when", "enabled", "next_or_trouble", "last")
    empty_value_display = ""
    list_filter = FILTERS
    list_per_page = 100
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    search_fields = ("name", "job")
    search_help_text = _("A part of its name, or of the name of its job.")
    ordering = ("name", "pk")
    sortable_by = ("name", "job")
    actions = ("enable_selected", "disable_selected", "run_selected")
    fieldsets = (
        (None, {"fields": ("name", "job", "enabled")}),
        (_("When"), {"fields": (*WHEN, "catch_up")}),
        (_("Arguments"), {"fields": ("positional", "keyword")}),
    )

    # The list

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ScheduleList]:
        return ScheduleList

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Schedule | None:
        """Return a schedule; None also for a row by hand that no page can show."""
        try:
            pk = int(object_id)
        except ValueError:
            return None
        rows = engine.current().schedules.read(self.get_queryset(request).filter(pk=pk))
        for row in rows:
            row.links = rights_of(request).view  # type: ignore[attr-defined]  # for `last`
        return rows[0] if rows else None

    # Permissions and fields

    def has_delete_permission(self, request: HttpRequest, obj: Schedule | None = None) -> bool:
        """Refuse for a schedule that the code declares: the next consumer to start would write it again."""
        declared = obj is not None and schedules.is_in_code(obj)
        return not declared and super().has_delete_permission(request, obj)

    def get_readonly_fields(self, request: HttpRequest, obj: Schedule | None = None) -> Any:
        if obj is not None and obj.source == Source.CODE:
            return (*_STATE, *_DECLARED)
        return _STATE

    def get_fieldsets(self, request: HttpRequest, obj: Schedule | None = None) -> Any:
        if obj is None:
            return self.fieldsets
        (title, first), *others = self.fieldsets
        if not rights_of(request).arguments:
            others = [each for each in others if "positional" not in each[1]["fields"]]
        if obj.source == Source.CODE:
            description = _("Declared by the code: only its switch can be changed here.")
            first = {**first, "description": description}
        state = {
            "fields": [
                field for field in _STATE if field != "trouble" or info_of(obj).problem is not None
            ],
            # The current time zone is not necessarily the schedule's own.
            "description": gettext("Times in the time zone %s.")
            % timezone.get_current_timezone_name(),
        }
        return ((title, first), *others, (_("State"), state))

    def get_form(
        self, request: HttpRequest, obj: Schedule | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        if obj is not None and obj.source == Source.CODE:
            kwargs["form"] = forms.ModelForm
        elif obj is not None and not rights_of(request).arguments:
            kwargs["form"] = ScheduleFormWithoutArguments
        return super().get_form(request, obj, change=change, **kwargs)

    # Columns

    @admin.display(description=_("when"))
    def when(self, row: Schedule) -> SafeString:
        return schedule_times.words(row)

    @admin.display(description=_("next"))
    def next_or_trouble(self, row: Schedule) -> SafeString:
        """Return both in one column of the list, because a column of troubles would usually be empty."""
        info = info_of(row)
        if info.problem is not None:
            return self.trouble(row)
        if info.next is None:
            return SafeString("")
        shown = schedule_times.occurrence(row, info.next)
        if not info.is_overdue:
            return shown
        return format_html(
            '{} <span class="djjp-badge djjp-badge-bad">{}</span><div>{}</div>',
            shown,
            _("overdue"),
            info.remedy,
        )

    @admin.display(description=_("next"))
    def upcoming(self, row: Schedule) -> SafeString:
        """Return the next occurrences."""
        return schedule_times.preview(row) or display.NOTHING

    @admin.display(description=_("last run"))
    def last(self, row: Schedule) -> SafeString:
        """Return the last occurrence, and how its job ended, with a link to it for a user who may see jobs."""
        if row.last_occurrence is None:
            return format_html('<span class="djjp-note">{}</span>', _("never"))
        when = display.relative(to_datetime(row.last_occurrence))
        state = info_of(row).last_state
        if row.last_job is None or not state:  # the job is pruned
            return when
        if getattr(row, "links", False):
            when = format_html('<a href="{}">{}</a>', self._job_url(row.last_job), when)
        return format_html(
            '{} <span class="djjp-state djjp-state-{}">{}</span>',
            when,
            state,
            State(state).label if state in State else state,
        )

    @admin.display(description=_("trouble"))
    def trouble(self, row: Schedule) -> SafeString:
        """Return why this process cannot fire the schedule, and what puts that right."""
        info = info_of(row)
        return format_html(
            '<span class="djjp-bad-text">{}</span><div class="djjp-note">{}</div>',
            display.lines(info.problem or ""),
            info.remedy,
        )

    @admin.display(description=_("positional arguments"))
    def positional(self, row: Schedule) -> SafeString:
        return display.block(display.split_arguments(row.job, row.arguments)[0])

    @admin.display(description=_("keyword arguments"))
    def keyword(self, row: Schedule) -> SafeString:
        return display.block(display.split_arguments(row.job, row.arguments)[1] or "")

    def _list_url(self) -> str:
        return reverse("admin:djjp_schedule_changelist", current_app=self.admin_site.name)

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

    @admin.action(permissions=["change"], description=_("Enable selected %(verbose_name_plural)s"))
    def enable_selected(self, request: HttpRequest, queryset: QuerySet[Schedule]) -> None:
        self._switch(request, queryset, enabled=True)

    @admin.action(permissions=["change"], description=_("Disable selected %(verbose_name_plural)s"))
    def disable_selected(self, request: HttpRequest, queryset: QuerySet[Schedule]) -> None:
        self._switch(request, queryset, enabled=False)

    @admin.action(permissions=["change"], description=_("Run selected %(verbose_name_plural)s now"))
    def run_selected(self, request: HttpRequest, queryset: QuerySet[Schedule]) -> None:
        for row in queryset:
            self._run(request, row)

    # The buttons of a schedule's page

    def get_urls(self) -> list[URLPattern]:
        view = answering(self.admin_site.admin_view(self._button_view))
        buttons = [
            path(f"<int:pk>/{name}/", view, {"name": name}, name=f"djjp_schedule_{name}")
            for name in ("run", "enable", "disable")
        ]
        return [*buttons, *super().get_urls()]

    def _button_view(self, request: HttpRequest, pk: int, name: str) -> HttpResponse:
        """Run, enable or disable a schedule, and return to the page that has the button."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not self.has_change_permission(request):
            raise PermissionDenied
        rows = self.get_queryset(request).filter(pk=pk)
        if not rows.exists():
            text = _("The schedule doesn’t exist any more: it was deleted.")
            self.message_user(request, text, messages.WARNING)
            return HttpResponseRedirect(self._list_url())
        if name == "run":
            self.run_selected(request, rows)
        else:
            self._switch(request, rows, enabled=name == "enable")
        context: dict[str, Any] = {
            "preserved_filters": self.get_preserved_filters(request),
            "opts": self.opts,
        }
        return self.back(request, add_preserved_filters(context, self.change_url(pk)))

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Schedule | None = None,
    ) -> HttpResponse:
        buttons = []
        if obj is not None and self.has_change_permission(request):
            if schedules.problem(obj) is None:
                buttons.append(("run", _("Run now")))
            buttons.append(("disable", _("Disable")) if obj.enabled else ("enable", _("Enable")))
        context["buttons"] = buttons
        if obj is not None and obj.source == Source.CODE:  # without fields for them
            escape(obj)
        request.current_app = self.admin_site.name
        return super().render_change_form(request, context, add, change, form_url, obj)

    def _switch(self, request: HttpRequest, queryset: QuerySet[Schedule], *, enabled: bool) -> None:
        rows = list(queryset.exclude(enabled=enabled))
        ids = [row.pk for row in rows]
        count = engine.run(lambda engine: engine.schedules.enable(ids, enabled, time.time()))
        if not enabled:
            detection.end("schedule_broken", [row.name for row in rows])
        if not count:
            if enabled:
                text = gettext("Nothing was changed: enabled already, or deleted.")
            else:
                text = gettext("Nothing was changed: disabled already, or deleted.")
            self.message_user(request, text, messages.WARNING)
            return
        if enabled:
            text = ngettext("Enabled %(count)s schedule.", "Enabled %(count)s schedules.", count)
        else:
            text = ngettext("Disabled %(count)s schedule.", "Disabled %(count)s schedules.", count)
        self.log_changes(request, rows, gettext("Enabled.") if enabled else gettext("Disabled."))
        self.message_user(request, text % {"count": display.number(count)}, messages.SUCCESS)

    def _run(self, request: HttpRequest, row: Schedule) -> None:
        try:
            handle = schedules.run_now(row)
        except Exception as error:  # noqa: BLE001  (users' code computes the key of a limit)
            text = str(error)
            if not rights_of(request).arguments and schedules.problem(row) is None:
                # Of users' code, and what it says can have the arguments.
                text = type(error).__name__
            self.message_user(request, display.lines(f"{row.name}: {text}"), messages.ERROR)
            return
        self.log_changes(request, [row], gettext("Run now: job %s.") % handle.id)
        message = format_html(
            gettext('{} is enqueued as <a href="{}">job {}</a>.'),
            display.lines(row.name),
            self._job_url(handle.id),
            handle.id,
        )
        self.message_user(request, message, messages.SUCCESS)


def info_of(row: Schedule) -> ScheduleInfo:
    """Return what a schedule is now; for the rows of a list all were read at once."""
    found: ScheduleInfo | None = getattr(row, "info", None)
    if found is None:
        [found] = infos([row])
        row.info = found  # type: ignore[attr-defined]  # kept as long as the row
    return found
