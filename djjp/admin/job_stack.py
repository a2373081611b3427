"""The live stack of a running job: what it does at this moment, as its consumer reports it."""

from __future__ import annotations

from itertools import groupby
from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.urls import URLPattern
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from djjp.admin import display
from djjp.admin.job_verbs import JobVerbs
from djjp.exceptions import ConsumerDoesNotAnswer, ConsumerDoesNotExist, JobDoesNotExist
from djjp.models import Job, State
from djjp.monitoring.explain import explain
from djjp.monitoring.headline import host_of
from djjp.monitoring.requests import JobStack as Found
from djjp.monitoring.requests import Stack, request_stack

#: Seconds for which the page waits for the consumer.
ANSWER_WITHIN = 1.5


class JobStack(JobVerbs):
    """The page with the stack of a running job.

    It needs the right to see arguments: lines of code and names of functions are as private as a traceback.
    """

    def get_urls(self) -> list[URLPattern]:
        return [
            self.route("<uuid:pk>/stack/", self.stack_view, "djjp_job_stack"),
            *super().get_urls(),
        ]

    def stack_view(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        """Show the calls of a running job."""
        self.require(request, "view", "arguments")
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        try:
            job = explain(pk).job
        except JobDoesNotExist:
            return self.gone(request, pk)
        found, problem = _stack(job)
        return self.page(
            request,
            "admin/djjp/job/stack.html",
            _("Stack of %s") % display.lines(job.name),
            job=job,
            shown_name=display.lines(job.name),
            badge=display.badge(job),
            problem=problem,
            since=None if found is None else found.since,
            stacks=[] if found is None else [_shown(each) for each in found.stacks],
            host=display.lines(host_of(job.consumer)),
            again=self.url("djjp_job_stack", pk),
            back=self.change_url(pk),
        )


def _stack(job: Job) -> tuple[Found | None, str]:
    """Return the stack of a job, or None and why there is none."""
    if job.state != State.RUNNING or not job.consumer:
        return None, _("The job does not run, so it has no stack.")
    host = display.lines(host_of(job.consumer))
    try:
        answer = request_stack(job.consumer, ANSWER_WITHIN)
    except ConsumerDoesNotExist as error:
        return None, display.lines(str(error))
    except ConsumerDoesNotAnswer:
        text = _(
            "The consumer on %s has not answered within 1.5 s. Its coordinator is busy, or its process is frozen: "
            "try again, or look at the process itself."
        )
        return None, text % host
    found = next((each for each in answer if each.id == job.pk), None)
    if found is None:
        return None, _(
            "The job does not run at this moment: it waits for a slot, or has just ended."
        )
    return found, ""


def _shown(stack: Stack) -> dict[str, Any]:
    """Return a stack with the successive calls of libraries folded."""
    parts = [
        (is_project, [*calls]) for is_project, calls in groupby(stack.calls, lambda c: c.is_project)
    ]
    return {
        "title": KINDS.get(stack.kind, stack.kind),
        "task": display.lines(stack.task),
        "parts": [
            {
                "kind": "project" if is_project else "library",
                "text": display.lines("".join(map(_line, calls))),
                "label": ""
                if is_project
                else ngettext("%d call in libraries", "%d calls in libraries", len(calls))
                % len(calls),
                # The innermost calls show what it does now, whosever they are.
                "is_open": number == len(parts) - 1,
            }
            for number, (is_project, calls) in enumerate(parts)
        ],
    }


def _line(call: Any) -> str:
    code = f"    {call.code}\n" if call.code else ""
    return f'  File "{call.file}", line {call.line}, in {call.function}\n{code}'


#: The kinds of stacks in words.
KINDS = {
    "thread": gettext_lazy("Thread"),
    "coroutine": gettext_lazy("Coroutine"),
    "database thread": gettext_lazy("Database thread"),
}
