"""The job list: fast and safe, whatever is in the queue and in the URL.

A queue has millions of finished jobs and no index on them, so nothing here counts them all, sorts them or
selects distinct values. The list follows the primary key backwards, which is the order of time, and counts
up to `MAX_COUNT` only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.helpers import ActionForm
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property

from djjp.models import Job, State

if TYPE_CHECKING:
    JobPaginator = Paginator[Job]
else:
    JobPaginator = Paginator

#: Number of jobs that the list has pages for; older jobs are reached by search and filters.
MAX_COUNT = 10_000

_MAX_NAME = 200


class BoundedPaginator(JobPaginator):
    """Pages of the newest `MAX_COUNT` jobs.

    Attributes:
        cut_off: there are more jobs than it has pages for.
    """

    cut_off = False

    @cached_property
    def count(self) -> int:
        jobs: QuerySet[Job] = self.object_list  # type: ignore[assignment]
        found = jobs.order_by()[: MAX_COUNT + 1].count()
        self.cut_off = found > MAX_COUNT
        return min(found, MAX_COUNT)


class JobList(ChangeList):
    """Newest first, without arguments and results, each job with a link to the jobs of its queue."""

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        return ["-pk"]  # ignores `?o=`: any other order sorts the whole table

    def get_queryset(self, *args: Any, **kwargs: Any) -> QuerySet[Any]:
        return super().get_queryset(*args, **kwargs).defer("arguments", "result")

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        # If all jobs fit on one page, Django shows all, and thousands can be enqueued after the count.
        self.result_list = self.result_list[: max(self.list_per_page, self.list_max_show_all)]
        for job in self.result_list:
            job.queue_query = self.get_query_string({QueueFilter.parameter_name: job.queue})


class PageActionForm(ActionForm):
    """Limits actions to the selected jobs of the page; "all" could be millions in one statement."""

    def clean_select_across(self) -> bool:
        return False


def search(queryset: QuerySet[Job], term: str) -> QuerySet[Job]:
    """Return the job with this id and those of its pipeline; else the jobs with the term in their name."""
    term = term.strip()
    if not term:
        return queryset
    try:
        return queryset.filter(Q(pk=UUID(term)) | Q(pipeline=UUID(term)))
    except ValueError:
        pass
    # Names are shorter than that, and SQLite refuses long patterns.
    return queryset.filter(name__icontains=term) if len(term) <= _MAX_NAME else queryset.none()


class StateFilter(admin.SimpleListFilter):
    """Filters by a state; the states are known without a query."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(state.value, str(state.label)) for state in State]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        value = self.value()
        if not value:
            return queryset
        return queryset.filter(state=value) if value in State.values else queryset.none()


class ExactTextFilter(admin.ListFilter):
    """Filters a text column by an exact value that the user types.

    A list of choices would need the distinct values of all history, or another table that every enqueue
    must maintain. To type a queue's name, or to click on it in the list, needs neither.
    """

    template = "djjp/text_filter.html"
    parameter_name: str

    def __init__(
        self,
        request: HttpRequest,
        params: dict[str, list[str]],
        model: type[Model],
        model_admin: admin.ModelAdmin[Any],
    ) -> None:
        super().__init__(request, params, model, model_admin)
        self.value = params.pop(self.parameter_name, [""])[-1]

    def has_output(self) -> bool:
        return True

    def expected_parameters(self) -> list[str | None]:
        return [self.parameter_name]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        if not self.value:
            return queryset
        if "\0" in self.value:  # PostgreSQL raises an error for it
            return queryset.none()
        return queryset.filter(**{self.parameter_name: self.value})

    def choices(self, changelist: ChangeList) -> Iterator[dict[str, Any]]:
        others = [
            (key, value)
            for key, values in changelist.filter_params.items()
            for value in values
            if key != self.parameter_name
        ]
        yield {
            "parameter": self.parameter_name,
            "value": self.value,
            "others": others,
            "query_string": changelist.get_query_string(remove=[self.parameter_name]),
        }


class QueueFilter(ExactTextFilter):
    title = "queue"
    parameter_name = "queue"


class NameFilter(ExactTextFilter):
    title = "name"
    parameter_name = "name"


FILTERS = (StateFilter, QueueFilter, NameFilter)
