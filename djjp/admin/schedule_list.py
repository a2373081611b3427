"""The list of schedules: its filters, and its rows as they are now, in a fixed number of statements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpRequest
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from djjp import engine, schedules
from djjp.admin import display
from djjp.admin.rights import rights_of
from djjp.models import Job, Schedule, State
from djjp.monitoring.upcoming import infos


def escape(row: Schedule) -> None:
    """Replace the texts that Django shows as they are; the row is for a page, and is not saved."""
    for name in ("name", "job", "cron", "tz"):
        setattr(row, name, display.lines(getattr(row, name)))


class ScheduleList(ChangeList):
    """Schedules with their next occurrences and the states of their last jobs.

    Attributes:
        left_out: the number of rows by hand on this page that no page can show.
    """

    left_out = 0

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        rows: Any = self.result_list
        sound = engine.current().schedules.read(rows)
        self.left_out = self._expected() - len(sound)
        for info in (found := infos(sound)):
            info.row.info = info  # type: ignore[attr-defined]  # for the columns
            info.row.links = rights_of(request).view  # type: ignore[attr-defined]  # as above
            escape(info.row)
        self.result_list = [info.row for info in found]

    def _expected(self) -> int:
        """Return the number of rows that this page has."""
        if self.show_all or not self.multi_page:
            return self.result_count
        before = (self.page_num - 1) * self.list_per_page
        return min(self.list_per_page, self.result_count - before)


class ScheduleFilter(admin.SimpleListFilter, ABC):
    """A filter whose choices are fixed; an unknown value finds nothing."""

    choices_shown: tuple[tuple[str, str | Promise], ...] = ()

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return self.choices_shown

    def queryset(self, request: HttpRequest, queryset: QuerySet[Schedule]) -> QuerySet[Schedule]:
        value = self.value()
        if not value:
            return queryset
        if value not in {key for key, _label in self.choices_shown}:
            return queryset.none()
        return self.matching(queryset, value)

    @abstractmethod
    def matching(self, queryset: QuerySet[Schedule], value: str) -> QuerySet[Schedule]:
        """Return the schedules that match a choice."""


class ProblemFilter(ScheduleFilter):
    """Filters by whether this process can fire a schedule."""

    title = _("problem")
    parameter_name = "problem"
    choices_shown = (("yes", _("Has a problem")), ("no", _("Has none")))

    def matching(self, queryset: QuerySet[Schedule], value: str) -> QuerySet[Schedule]:
        rows = engine.current().schedules.read(queryset.order_by())
        wanted = value == "yes"
        found = [row.pk for row in rows if (schedules.problem(row) is not None) is wanted]
        return queryset.filter(pk__in=found)


class LastRunFilter(ScheduleFilter):
    """Filters by the state of the last job of a schedule."""

    title = _("last run")
    parameter_name = "last"
    choices_shown = (
        *((state.value, state.label) for state in (State.FAILED, State.CANCELLED, State.RUNNING)),
        (State.SUCCEEDED.value, State.SUCCEEDED.label),
        ("never", _("Never ran")),
    )

    def matching(self, queryset: QuerySet[Schedule], value: str) -> QuerySet[Schedule]:
        if value == "never":
            return queryset.filter(last_job__isnull=True)
        last = Job.objects.filter(pk=OuterRef("last_job"), state=value)
        return queryset.filter(Exists(last))


FILTERS = ("enabled", "source", ProblemFilter, LastRunFilter)
