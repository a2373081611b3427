"""`ConsumerAdmin`: the list of consumers, the page of one with what it runs, and the requests to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.admin.utils import quote, unquote
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.template.response import TemplateResponse
from django.urls import URLPattern
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from djjp import conf
from djjp.admin import display
from djjp.admin.pages import PageAdmin
from djjp.durations import seconds as in_seconds
from djjp.exceptions import ConsumerDoesNotAnswer, ConsumerDoesNotExist
from djjp.models import Consumer
from djjp.monitoring import requests
from djjp.monitoring.consumers import ConsumerInfo, Life, consumers, jobs_of, names_missing

#: Seconds that a page waits for the answer of a consumer.
ANSWER_WITHIN = 1.5
#: The jobs and the missing names that the page of a consumer shows, and the consumers of the list, at most.
JOBS_SHOWN, NAMES_SHOWN, CONSUMERS_SHOWN = 200, 100, 500


class Request(NamedTuple):
    """A request to a consumer.

    Attributes:
        send: makes it; takes the consumer's name and the seconds to wait for the answer.
        done: what was done, for the log and the message.
    """

    send: Callable[[str, float], None]
    done: str | Promise


REQUESTS = {
    "quiet": Request(
        requests.quiet, gettext_lazy("Quiet: it claims no further jobs, and goes on with its own.")
    ),
    "unquiet": Request(requests.unquiet, gettext_lazy("It claims jobs again.")),
    "stop": Request(
        requests.stop, gettext_lazy("Stopped: it ends once its running jobs have ended.")
    ),
}


class ConsumerAdmin(PageAdmin):
    """Consumers: how full each is, what it runs, and the requests to it."""

    def get_urls(self) -> list[URLPattern]:
        return [
            self.route("<path:name>/quiet/", self.quiet_view, "djjp_consumer_quiet"),
            self.route("<path:name>/unquiet/", self.unquiet_view, "djjp_consumer_unquiet"),
            self.route("<path:name>/stop/", self.stop_view, "djjp_consumer_stop"),
            self.route("<path:name>/stack/", self.stack_view, "djjp_consumer_stack"),
            *super().get_urls(),
        ]

    # Pages

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        self.require(request, "view")
        found = consumers()
        wanted = request.GET.get("q", "").strip()
        matching = [each for each in found if wanted.casefold() in each.name.casefold()]
        # Those that need somebody come first.
        matching.sort(key=lambda each: (each.life is Life.ALIVE, not each.quiet, each.name))
        return self.page(
            request,
            "admin/djjp/consumers.html",
            _("Consumers"),
            live=True,
            consumers=matching[:CONSUMERS_SHOWN],
            matching=len(matching),
            total=len(found),
            busy=sum(each.busy for each in found),
            slots=sum(each.limit for each in found),
            q=wanted,
        )

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> TemplateResponse:
        self.require(request, "view")
        name = unquote(object_id)
        consumer = _find(name)
        if consumer is None:
            return self._gone(request, name)
        jobs = jobs_of(name, JOBS_SHOWN + 1)
        missing = names_missing(name)
        return self.page(
            request,
            "admin/djjp/consumer.html",
            display.lines(name),
            live=True,
            consumer=consumer,
            why=_why(consumer),
            running=jobs[: min(consumer.limit, JOBS_SHOWN)],
            ahead=jobs[consumer.limit : JOBS_SHOWN],
            more_jobs=len(jobs) > JOBS_SHOWN,
            missing=None if missing is None else missing[:NAMES_SHOWN],
            missing_count=len(missing or []),
        )

    def _gone(self, request: HttpRequest, name: str) -> TemplateResponse:
        jobs = f"{self.url('djjp_job_changelist')}?{urlencode({'consumer': name})}"
        return self.page(
            request,
            "admin/djjp/missing.html",
            _("There is no such consumer"),
            status=404,
            missing=display.lines(name),
            text=_("It has ended, or it was declared dead and other consumers have its jobs."),
            back=self.url("djjp_consumer_changelist"),
            back_label=_("All consumers"),
            others=[(jobs, _("The jobs that it ran"))],
        )

    # Requests

    def quiet_view(self, request: HttpRequest, name: str) -> HttpResponse:
        return self._requested(request, name, "quiet")

    def unquiet_view(self, request: HttpRequest, name: str) -> HttpResponse:
        return self._requested(request, name, "unquiet")

    def stop_view(self, request: HttpRequest, name: str) -> HttpResponse:
        """Ask for confirmation; stop the consumer once that is given."""
        if request.method not in ("GET", "HEAD"):
            return self._requested(request, name, "stop")
        self.require(request, "view", "operate")
        consumer = _find(unquote(name))
        if consumer is None:
            return self._gone(request, unquote(name))
        timeout = in_seconds("shutdown_timeout", conf.current().shutdown_timeout)
        return self.page(
            request,
            "admin/djjp/consumer_stop.html",
            _("Stop this consumer?"),
            consumer=consumer,
            shutdown_timeout=timeout,
            back=self.url("djjp_consumer_change", name),
        )

    def _requested(self, request: HttpRequest, name: str, verb: str) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["GET", "POST"] if verb == "stop" else ["POST"])
        self.require(request, "view", "operate")
        consumer = unquote(name)
        send, done = REQUESTS[verb]
        try:
            send(consumer, ANSWER_WITHIN)
        except (ConsumerDoesNotAnswer, ConsumerDoesNotExist) as error:
            self.notify(request, display.lines(str(error)), messages.ERROR)
        else:
            shown = display.lines(consumer)
            self.record(request, Consumer, consumer, shown, str(done))
            self.notify(request, f"{shown}: {done}")
        return self.back(request, self.url("djjp_consumer_change", quote(consumer)))

    def stack_view(self, request: HttpRequest, name: str) -> HttpResponse:
        """Show where the running jobs of a consumer are at this moment. The request changes nothing there."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        self.require(request, "view", "arguments")
        consumer = unquote(name)
        error, jobs = "", []
        try:
            jobs = requests.request_stack(consumer, ANSWER_WITHIN)
        except (ConsumerDoesNotAnswer, ConsumerDoesNotExist) as refusal:
            error = display.lines(str(refusal))
        return self.page(
            request,
            "admin/djjp/consumer_stack.html",
            _("Stacks of running jobs"),
            name=consumer,
            jobs=jobs,
            error=error,
            back=self.url("djjp_consumer_change", quote(consumer)),
        )


def _find(name: str) -> ConsumerInfo | None:
    return next((each for each in consumers() if each.name == name), None)


def _why(consumer: ConsumerInfo) -> str:
    """Return what is wrong with a consumer, and what becomes of its jobs; "" if nothing is."""
    age = display.span(consumer.heartbeat_age)
    held = consumer.busy + consumer.claimed_ahead
    if consumer.life is Life.DEAD:
        jobs = ngettext("its job", "its %(number)d jobs", held) % {"number": held}
        text = _("Dead: its locks are gone, or its heartbeat is %(age)s old.") % {"age": age}
        if held:
            rescued = _(
                "Another consumer rescues %(jobs)s within seconds; if none is left, start one."
            )
            text += " " + rescued % {"jobs": jobs}
        return text
    if consumer.life is Life.SILENT:
        return _(
            "Silent: its process exists, and has sent no heartbeat for %(age)s. It is frozen, or a job holds the"
            " interpreter. It runs on, and its jobs are rescued once it counts as dead; to have that at once, end"
            " its process on its machine."
        ) % {"age": age}
    if consumer.quiet:
        return _("Quiet: it goes on with the jobs that it holds, and claims no others.")
    return ""
