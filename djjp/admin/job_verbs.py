"""The buttons of a job's page: verbs of the engine, by POST; some of them ask for a confirmation first."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from django.contrib import messages
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.http import HttpResponseRedirect as Redirect
from django.urls import NoReverseMatch, URLPattern
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from djjp import engine, queues
from djjp.admin import display, reasons
from djjp.admin.pages import PageAdmin
from djjp.admin.rights import Rights
from djjp.bounds import LONGEST_QUEUE, require_priority, require_text
from djjp.engine import Engine, Tally
from djjp.engine.bulk import NOT_FOUND
from djjp.exceptions import JobDoesNotExist
from djjp.jobs import get_job
from djjp.models import FINISHED, Flag, Job, Queue, State, Verb
from djjp.monitoring.explain import Explanation, explain
from djjp.monitoring.headline import host_of


class Wording(NamedTuple):
    """The words of a verb for one job.

    Attributes:
        label: its button.
        done: the message after it, and the entry in the log.
    """

    label: str | Promise
    done: str | Promise


WORDINGS = {
    Verb.RETRY: Wording(gettext_lazy("Retry"), gettext_lazy("Retried.")),
    Verb.CANCEL: Wording(gettext_lazy("Cancel"), gettext_lazy("Cancelled.")),
    Verb.RUN: Wording(gettext_lazy("Run now"), gettext_lazy("Made ready to run now.")),
    Verb.MOVE: Wording(gettext_lazy("Move"), gettext_lazy("Moved to queue %(argument)s.")),
    Verb.PRIORITY: Wording(
        gettext_lazy("Set the priority"), gettext_lazy("Changed the priority to %(argument)s.")
    ),
}
_WAITING = (State.SCHEDULED, State.BLOCKED, State.READY)


class Button(NamedTuple):
    """A button of a job's page.

    Attributes:
        url: where it leads, or, with `is_post`, the address of its form.
        style: "danger" for what cannot be undone, "quiet" beside others, else "".
    """

    label: str | Promise
    url: str
    is_post: bool = False
    style: str = ""


def possible(job: Job, *, in_outbox: bool) -> list[Verb]:
    """Return the verbs that a job's state allows; the engine has the last word."""
    if in_outbox:
        return [Verb.CANCEL]
    if job.flags & Flag.UNLISTED:
        return []
    found = []
    if job.state in FINISHED:
        # An `on_failure` job that no failure has called cannot run.
        if not (job.flags & Flag.ON_FAILURE and job.state == State.CANCELLED):
            found.append(Verb.RETRY)
    elif job.state in State.values and not display.is_cancelling(job):
        found.append(Verb.CANCEL)
    if job.state == State.SCHEDULED and not (job.flags & Flag.THROTTLED and not job.attempts):
        found.append(Verb.RUN)
    if job.state in _WAITING:
        found += [Verb.MOVE, Verb.PRIORITY]
    return found


def is_in_outbox(found: Explanation) -> bool:
    """Return whether a job is not in the queue yet."""
    return found.codes == ["outbox"]


class JobVerbs(PageAdmin):
    """The verbs for one job."""

    def get_urls(self) -> list[URLPattern]:
        verbs = [
            self.route(f"<uuid:pk>/{verb}/", partial(self.verb_view, verb=verb), f"djjp_job_{verb}")
            for verb in WORDINGS
        ]
        return [
            *verbs,
            self.route("<uuid:pk>/resume/", self.resume_view, "djjp_job_resume"),
            self.route(
                "<uuid:pk>/confirm/cancel/", self.confirm_cancel_view, "djjp_job_confirm_cancel"
            ),
            *super().get_urls(),
        ]

    def verb_view(self, request: HttpRequest, pk: UUID, verb: Verb) -> HttpResponse:
        """Do a verb to a job, and return to its page."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        self.require(request, "view", "operate")
        try:
            argument = _argument(verb, request.POST.get("argument", ""))
        except ValueError as error:
            self.notify(request, str(error), messages.ERROR)
            return self.to_job(request, pk)
        job, reason = _do(verb, pk, argument)
        if reason is not None:
            text = _("Nothing was changed: %(reason)s.") % {"reason": reason}
            self.notify(request, text, messages.WARNING)
            return self.to_job(request, pk)
        done = WORDINGS[verb].done % {"argument": display.lines(argument)}
        self.record(request, Job, pk, str(job or pk), str(done))
        if verb is Verb.CANCEL and job is not None and job.state == State.RUNNING:
            done = _("The cancellation was requested: its consumer stops the job soon.")
        self.notify(request, str(done))
        return self.to_job(request, pk)

    def resume_view(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        """Resume the queue of a job, and return to the job's page."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        self.require(request, "view", "pause")
        job = self.row(pk)
        if job is None:
            return self.gone(request, pk)
        name = display.lines(job.queue)
        if queues.resume(job.queue):
            self.record(request, Queue, job.queue, job.queue, _("Resumed."))
            self.notify(request, _("Queue %s is resumed.") % name)
        else:
            self.notify(request, _("Queue %s was not paused.") % name, messages.WARNING)
        return self.to_job(request, pk)

    def confirm_cancel_view(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        """Show what a cancellation does beyond its button; the page's one button does it."""
        self.require(request, "view", "operate")
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        try:
            found = explain(pk)
        except JobDoesNotExist:
            return self.gone(request, pk)
        job = found.job
        effects = []
        if job.state == State.RUNNING:
            text = _(
                "It runs on %s. The consumer raises an exception inside it; what it has done by then stays done."
            )
            effects.append(text % display.lines(host_of(job.consumer)))
        if job.flags & Flag.HAS_DEPENDENTS:
            effects.append(_("The jobs of its pipeline that depend on it are cancelled with it."))
        return self.page(
            request,
            "admin/djjp/job/confirm.html",
            _("Cancel: %s") % display.lines(job.name),
            job=job,
            shown_name=display.lines(job.name),
            badge=display.badge(job),
            is_possible=Verb.CANCEL in possible(job, in_outbox=is_in_outbox(found)),
            effects=effects or [_("It does not run any more.")],
            label=_("Cancel the job"),
            action=self.with_filters(request, self.url("djjp_job_cancel", pk)),
            back=self.with_filters(request, self.change_url(pk)),
        )

    def buttons(self, request: HttpRequest, found: Explanation, rights: Rights) -> list[Button]:
        """Return the buttons that the state of a job and the rights of the user allow."""
        job, buttons = found.job, []
        in_outbox = is_in_outbox(found)
        if rights.operate:
            for verb in possible(job, in_outbox=in_outbox):
                if verb in (Verb.MOVE, Verb.PRIORITY):  # they have forms
                    continue
                confirmation = self._shown_before(job, verb)
                url = confirmation or self.url(f"djjp_job_{verb}", job.pk)
                url = self.with_filters(request, url)
                style = "quiet" if verb is Verb.CANCEL else ""
                buttons.append(Button(_label(job, verb), url, not confirmation, style))
        if rights.operate and rights.arguments and not in_outbox:
            url = self.url("djjp_job_copy", job.pk)
            buttons.append(Button(_("Copy and enqueue again"), url, style="quiet"))
        if rights.arguments and job.state == State.RUNNING and job.consumer:
            url = self.url("djjp_job_stack", job.pk)
            buttons.append(Button(_("Stack now"), url, style="quiet"))
        if self.has_delete_permission(request, job) and not in_outbox:
            url = self.with_filters(request, self.url("djjp_job_delete", job.pk))
            buttons.append(Button(_("Delete"), url, style="danger"))
        return buttons

    def _shown_before(self, job: Job, verb: Verb) -> str:
        """Return the page that shows what a verb does to a running job or to other jobs; "" if it needs none."""
        if verb is Verb.CANCEL and (job.state == State.RUNNING or job.flags & Flag.HAS_DEPENDENTS):
            return self.url("djjp_job_confirm_cancel", job.pk)
        if verb is Verb.RETRY and job.pipeline is not None:
            return self.url("djjp_job_pipeline_retry_step", job.pipeline, job.pk)
        return ""

    def row(self, pk: UUID) -> Job | None:
        """Return the row of a job without its long texts."""
        return engine.run(partial(_row, pk))

    # Addresses

    def to_job(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        """Return to the page of a job."""
        return Redirect(self.with_filters(request, self.change_url(pk)))

    def gone(self, request: HttpRequest, id: object) -> HttpResponse:
        """Return to the list, because there is no such job."""
        text = _("Job “%(id)s” doesn’t exist: it was deleted, or pruned after its time.")
        self.notify(request, text % {"id": display.lines(str(id))[:100]}, messages.WARNING)
        return Redirect(self.url("djjp_job_changelist"))

    def with_filters(self, request: HttpRequest, url: str) -> str:
        """Return an address with the filters of the list from which the user has come."""
        context: dict[str, Any] = {
            "preserved_filters": self.get_preserved_filters(request),
            "opts": self.opts,
        }
        return add_preserved_filters(context, url)

    def link(self, name: str, *args: object) -> str:
        """Return the address of a page; "" if the site does not have it, or if none can have these values."""
        try:
            return self.url(name, *args)
        except NoReverseMatch:
            return ""


def _argument(verb: Verb, text: str) -> str:
    """Return the argument of a verb; raise ValueError, with the reason, for an invalid one."""
    text = text.strip()
    if verb is Verb.MOVE:
        require_text(_("the queue"), text, LONGEST_QUEUE)
        return text
    if verb is Verb.PRIORITY:
        try:
            number = int(text[:8])
        except ValueError:
            raise ValueError(_("The priority must be a whole number.")) from None
        require_priority(_("the priority"), number)
        return str(number)
    return ""


def _do(verb: Verb, id: UUID, argument: str) -> tuple[Job | None, str | None]:
    """Do a verb; return the row as it was, and why the job was left alone, or None."""
    job = engine.run(partial(_row, id))
    tally: Tally = engine.run(lambda engine: engine.bulk.do(verb, [id], argument, time.time()))
    if tally.done:
        return job, None
    reason = next(iter(tally.skipped))
    if reason == NOT_FOUND and verb is Verb.CANCEL and job is None:
        try:
            handle = get_job(id)
            handle.cancel()
        except JobDoesNotExist:
            return None, reasons.of_one(reason)
        return None, None
    return job, reasons.of_one(reason)


def _row(id: UUID, engine: Engine) -> Job | None:
    jobs = Job.objects.using(engine.db.alias).filter(pk=id)
    return jobs.defer("arguments", "result", "input").first()


def _label(job: Job, verb: Verb) -> str | Promise:
    if verb is Verb.RETRY and job.state == State.SUCCEEDED:
        return _("Run again")
    return WORDINGS[verb].label
