"""The list of jobs: those of a filter, page by page, with what each waits for or how it failed."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext as _

from djjp import engine
from djjp.admin import display
from djjp.admin.bulk import BulkPages
from djjp.admin.filtering import Asked, bare_id, form_of, is_fragment, query_of
from djjp.admin.rights import rights_of
from djjp.exceptions import JobDoesNotExist
from djjp.models import FINISHED, Job, State
from djjp.monitoring import Count, Filter, FilterError, Page, count, explain, find, tagged_jobs
from djjp.monitoring.listing import ListedJob, described

#: The jobs on a page; and the seconds for which a page searches and counts, at least for its count.
PAGE, SECONDS, LEAST = 50, 0.1, 0.02


class JobListPages(BulkPages):
    """The list of jobs."""

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        self.require(request, "view")
        if request.method == "POST":
            return self.begin_action(request)
        asked = Asked.of(request.GET)
        if (id := bare_id(request.GET.get("q", ""))) is not None:
            target = self._page_of(id)
            if target is not None:
                return HttpResponseRedirect(target)
            asked = Asked(None, asked.text, {}, {"q": _reason_for_no_page(id)})
        if asked.wanted is None:
            status = 400 if asked.unknown else 200
            return self._list(request, asked, {"jobs": []}, status)
        wanted, context = asked.wanted, self._found(request, asked, asked.wanted)
        if not context["jobs"] and (tag := _typed_tag(asked, wanted)) is not None:
            target = self.url("djjp_job_changelist") + query_of(Filter(tag=tag))
            return HttpResponseRedirect(target)
        return self._list(request, asked, context, 200)

    def _page_of(self, id: UUID) -> str | None:
        """Return the address of the page of a job, or of a pipeline."""
        if engine.run(lambda engine: engine.bulk.existing([id])):
            return self.url("djjp_job_change", id)
        if find(Filter(pipeline=id), limit=1).jobs:
            return self.url("djjp_job_pipeline", id)
        return None

    def _list(
        self, request: HttpRequest, asked: Asked, context: dict[str, Any], status: int
    ) -> HttpResponse:
        if not is_fragment(request):
            context |= form_of(asked)
            context |= {"actions": self.actions_for(request), "finds_ids": True}
        return self.page(
            request,
            "admin/djjp/job/list.html",
            _("Jobs"),
            status=status,
            live=asked.wanted is not None,
            query=asked.query(),
            address=self.url("djjp_job_changelist"),
            **context,
        )

    def _found(self, request: HttpRequest, asked: Asked, wanted: Filter) -> dict[str, Any]:
        began = time.monotonic()
        page, is_first = self._read(request, wanted)
        left = max(SECONDS - (time.monotonic() - began), LEAST)
        rights = rights_of(request)
        found = described(page.jobs, texts=rights.arguments)
        return {
            "jobs": [self._row(each, asked) for each in found],
            "count": _count(wanted, page, is_first=is_first, time_limit=left),
            "looked_back_to": page.looked_back_to,
            "next": page.next and asked.query(cursor=page.next),
            "previous": page.previous and asked.query(cursor=page.previous, backwards="1"),
            "is_first": is_first,
        }

    def _read(self, request: HttpRequest, wanted: Filter) -> tuple[Page, bool]:
        """Return the page of the address, and whether it is the first one."""
        cursor, backwards = request.GET.get("cursor"), "backwards" in request.GET
        if cursor is not None:
            try:
                page = find(
                    wanted, limit=PAGE, cursor=cursor, backwards=backwards, time_limit=SECONDS
                )
            except FilterError as error:
                self.notify(request, str(error), messages.ERROR)
            else:
                if not backwards or page.previous is not None:
                    return page, False
        return find(wanted, limit=PAGE, time_limit=SECONDS), True

    def _row(self, listed: ListedJob, asked: Asked) -> dict[str, Any]:
        job, error = listed.job, listed.error
        return {
            "id": str(job.pk),
            "url": self.url("djjp_job_change", job.pk),
            "name": display.lines(job.name),
            "badge": display.badge(job),
            "queue": display.lines(job.queue),
            "queue_query": asked.query(queue=job.queue),
            "arguments": display.one_line_arguments(job.name, listed.arguments, job.flags),
            "tags": [(display.lines(tag), asked.query(tag=tag)) for tag in job.tags],
            "error": error and display.one_line_error(error.exception_class, error.message),
            "waits_for": listed.waits_for,
            "progress": display.progress(job.progress_done, job.progress_total)
            if job.state == State.RUNNING
            else None,
            "enqueued": job.created_at,
            "started": job.started_at if job.state == State.RUNNING else None,
            "ended": job.finished_at if job.state in FINISHED else None,
            "took": _duration(job),
            "attempts": job.attempts,
            "reason": job.reason and display.lines(job.reason),
        }


def _duration(job: Job) -> str | None:
    """Return how long a job runs, or how long its last execution took."""
    if job.state == State.RUNNING:
        return display.duration(job.started_at, None)
    return display.duration(job.started_at, job.finished_at) if job.finished_at else None


def _count(wanted: Filter, page: Page, *, is_first: bool, time_limit: float) -> Count | None:
    """Return the number of jobs of the filter; None if the page has found that the search takes too long."""
    if page.looked_back_to is not None:
        return None
    if is_first and page.next is None:
        return Count(len(page.jobs), is_exact=True)
    return count(wanted, time_limit=time_limit)


def _typed_tag(asked: Asked, wanted: Filter) -> str | None:
    """Return the word that was typed, if no job was found by its name and it is a tag."""
    word = asked.text
    if ":" in word or wanted.texts().keys() != {"name"} or len(word.split()) != 1:
        return None
    return word if tagged_jobs(word, limit=1) else None


def _reason_for_no_page(id: UUID) -> str:
    try:
        causes = explain(id).causes
    except JobDoesNotExist:
        return _("No job and no pipeline has the id %(id)s.") % {"id": id}
    return causes[0].sentence
