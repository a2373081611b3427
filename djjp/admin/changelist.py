"""The job list: what keeps it fast and standing, whatever is in the queue and in the URL.

A queue has millions of finished jobs and no index on them, so nothing here counts them, sorts them
or looks for distinct values. The list goes backwards along the primary key, which is the order of
time, and counts no further than `COUNTED`.
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

#: The list has pages for this many jobs; older ones are reached by search and filters.
COUNTED = 10_000

_LONGEST_NAME = 200


class BoundedPaginator(JobPaginator):
    """Pages of the newest `COUNTED` jobs.

    Attributes:
        cut_off: there are more jobs than it has pages for.
    """

    cut_off = False

    @cached_property
    def count(self) -> int:
        jobs: QuerySet[Job] = self.object_list  # type: ignore[assignment]
        found = jobs.order_by()[: COUNTED + 1].count()
        self.cut_off = found > COUNTED
        return min(found, COUNTED)


class JobList(ChangeList):
    """Newest first, without the payloads, each job with the way to its queue's jobs."""

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        return ["-pk"]  # whatever `?o=` asks for: any other order is a sort of the whole table

    def get_queryset(self, *args: Any, **kwargs: Any) -> QuerySet[Any]:
        return super().get_queryset(*args, **kwargs).defer("arguments", "result")

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        # Where all fits on one page, thousands more may have been enqueued since the count.
        self.result_list = self.result_list[: max(self.list_per_page, self.list_max_show_all)]
        for job in self.result_list:
            job.queue_query = self.get_query_string({QueueFilter.parameter_name: job.queue})


class PageActionForm(ActionForm):
    """Actions take what is ticked on the page; "all" could be millions in one statement."""

    def clean_select_across(self) -> bool:
        return False


def search(queryset: QuerySet[Job], term: str) -> QuerySet[Job]:
    """The job with this id and those of its pipeline; else the jobs with the term in their name."""
    term = term.strip()
    if not term:
        return queryset
    try:
        return queryset.filter(Q(pk=UUID(term)) | Q(pipeline=UUID(term)))
    except ValueError:
        pass
    # No name is that long, and SQLite refuses long patterns.
    return queryset.filter(name__icontains=term) if len(term) <= _LONGEST_NAME else queryset.none()


class StateFilter(admin.SimpleListFilter):
    """The states, known beforehand."""

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
    """One text column is exactly what was typed.

    A list to choose from would need the distinct values of all history, or of another table that
    every enqueue has to keep; to type a queue's name, or click on it in the list, needs neither.
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
        if "\0" in self.value:  # which PostgreSQL would not even compare with
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
