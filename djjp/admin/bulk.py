"""Bulk actions: a verb for ticked jobs, or for all that match a filter, after a preview and a confirmation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import BadRequest, PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern
from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext, ngettext_lazy

from djjp import engine
from djjp.admin import display, reasons
from djjp.admin.filtering import Asked, offered, query_of
from djjp.admin.pages import PageAdmin
from djjp.admin.rights import Rights, rights_of
from djjp.models import Job, Operation, State, Verb
from djjp.monitoring import Filter, consumers, find, operations
from djjp.monitoring.causes import claims
from djjp.monitoring.operations import OperationInfo, Preview
from djjp.served import Servers

#: The running jobs that a warning names.
NAMED = 5


class Wording(NamedTuple):
    """The words of a verb.

    Attributes:
        label: its button and its entry among the actions.
        done: what was done to a number of jobs, as a sentence.
        effect: what it does to each job.
        argument: the label of its argument; "" without one.
    """

    label: str | Promise
    done: Promise
    effect: str | Promise
    argument: str | Promise = ""


WORDINGS = {
    Verb.RETRY: Wording(
        gettext_lazy("Retry"),
        ngettext_lazy("Retried %(count)s job.", "Retried %(count)s jobs.", "number"),
        gettext_lazy(
            "Jobs that have ended run again, with fresh attempts. In a pipeline their failed parents do too, and"
            " their dependents wait again."
        ),
    ),
    Verb.CANCEL: Wording(
        gettext_lazy("Cancel"),
        ngettext_lazy("Cancelled %(count)s job.", "Cancelled %(count)s jobs.", "number"),
        gettext_lazy(
            "Jobs that have not ended are cancelled, and so are their dependents in a pipeline."
        ),
    ),
    Verb.RUN: Wording(
        gettext_lazy("Run now"),
        ngettext_lazy("Made ready %(count)s job.", "Made ready %(count)s jobs.", "number"),
        gettext_lazy("Scheduled jobs become ready now, whatever their time."),
    ),
    Verb.MOVE: Wording(
        gettext_lazy("Move to a queue"),
        ngettext_lazy(
            "Moved %(count)s job to queue %(argument)s.",
            "Moved %(count)s jobs to queue %(argument)s.",
            "number",
        ),
        gettext_lazy("Jobs that have not started wait in the other queue instead."),
        gettext_lazy("To queue"),
    ),
    Verb.PRIORITY: Wording(
        gettext_lazy("Set the priority"),
        ngettext_lazy(
            "Changed the priority of %(count)s job to %(argument)s.",
            "Changed the priority of %(count)s jobs to %(argument)s.",
            "number",
        ),
        gettext_lazy(
            "Jobs that have not started get this priority; higher ones are claimed first."
        ),
        gettext_lazy("Priority"),
    ),
    Verb.DELETE: Wording(
        gettext_lazy("Delete"),
        ngettext_lazy("Deleted %(count)s job.", "Deleted %(count)s jobs.", "number"),
        gettext_lazy(
            "Jobs are deleted for good, with arguments, results and errors; their dependents are cancelled."
        ),
    ),
}


class Chosen(NamedTuple):
    """The jobs of an action: those of a filter, or ticked ones."""

    filter: Filter | None
    ids: tuple[UUID, ...] = ()

    def options(self) -> dict[str, Any]:
        """Return it as `operations` takes it."""
        return {"ids": self.ids} if self.filter is None else {"filter": self.filter}

    def __str__(self) -> str:
        if self.filter is None:
            number = len(self.ids)
            text = ngettext("%(count)s ticked job", "%(count)s ticked jobs", number)
            return text % {"count": display.number(number)}
        if self.filter:
            return _("all jobs that match %(filter)s") % {"filter": self.filter}
        return _("all jobs of the queue")


def may_do(rights: Rights, verb: Verb) -> bool:
    """Return whether a user may do a verb to jobs."""
    return rights.delete if verb is Verb.DELETE else rights.operate


def sentence_of(info: OperationInfo) -> str:
    """Return what an operation has done so far, with what it has left alone, by reason."""
    count = display.number(info.done)
    words = {"number": info.done, "count": count, "argument": info.argument}
    text = str(WORDINGS[info.verb].done % words)
    if info.skipped:
        text += " " + _("Left alone: %(reasons)s.") % {"reasons": reasons.of_many(info.skipped)}
    return text


def matching(found: Preview) -> str:
    """Return the result of a preview as a sentence."""
    left = found.sampled - found.possible
    words = {
        "count": display.number(found.matched) + ("+" if found.has_more else ""),
        "sampled": display.number(found.sampled),
        "left": display.number(left),
        "reasons": reasons.of_many(found.skipped),
    }
    if not found.skipped:
        return ngettext("%(count)s match", "%(count)s match", found.matched) % words
    if found.sampled < found.matched:
        text = _("%(count)s match; of %(sampled)s of them; %(left)s cannot, because %(reasons)s")
        return text % words
    return _("%(count)s match; %(left)s cannot, because %(reasons)s") % words


class BulkPages(PageAdmin):
    """The confirmation of a verb for many jobs, and its start."""

    def get_urls(self) -> list[URLPattern]:
        return [
            self.route("bulk/<str:verb>/", self.bulk_view, "djjp_job_bulk"),
            *super().get_urls(),
        ]

    def actions_for(self, request: HttpRequest) -> list[tuple[str, str | Promise]]:
        """Return the actions of the list that a user may use, with their labels."""
        rights = rights_of(request)
        return [
            (f"{verb}_selected", wording.label)
            for verb, wording in WORDINGS.items()
            if may_do(rights, verb)
        ]

    def begin_action(self, request: HttpRequest) -> HttpResponse:
        """Show the confirmation of an action of the list, as its form sends it."""
        back = request.get_full_path()
        verb = _verb(request.POST.get("action", "").removesuffix("_selected"))
        if verb is None:
            self.notify(request, _("No action selected."), messages.WARNING)
            return HttpResponseRedirect(back)
        self._check(request, verb)
        if request.POST.get("select_across") == "1":
            query = request.GET.urlencode()
            return HttpResponseRedirect(f"{self.url('djjp_job_bulk', verb.value)}?{query}")
        if not request.POST.getlist("_selected_action"):
            text = _("Tick the jobs first, or choose all that match. Nothing was changed.")
            self.notify(request, text, messages.WARNING)
            return HttpResponseRedirect(back)
        return self.bulk_view(request, verb.value)

    def bulk_view(self, request: HttpRequest, verb: str) -> HttpResponse:
        """Show what a verb would do; do it once that is confirmed."""
        known = _verb(verb)
        if known is None:
            raise Http404
        self._check(request, known)
        chosen = _chosen(request)
        if chosen is None:  # the list shows what is wrong with the filter
            list_url = self.url("djjp_job_changelist")
            return HttpResponseRedirect(f"{list_url}?{request.GET.urlencode()}")
        if known is Verb.DELETE:
            self._check_each(request, chosen)
        given = request.POST if request.method == "POST" else request.GET
        argument = given.get("argument", "").strip()
        error = ""
        if argument or not WORDINGS[known].argument:
            try:
                if request.method == "POST" and "post" in request.POST:
                    return self._start(request, known, chosen, argument)
                found = operations.preview(known, argument=argument, **chosen.options())
            except ValueError as refused:
                error = str(refused)
            else:
                return self._confirmation(request, known, chosen, argument, found)
        return self._confirmation(request, known, chosen, argument, None, error)

    def _check(self, request: HttpRequest, verb: Verb) -> None:
        self.require(request, "view")
        if not may_do(rights_of(request), verb):
            raise PermissionDenied

    def _check_each(self, request: HttpRequest, chosen: Chosen) -> None:
        """Refuse a deletion that a project forbids for one of the ticked jobs, in `has_delete_permission`."""
        if not all(self.has_delete_permission(request, job) for job in _rows(chosen.ids)):
            raise PermissionDenied

    def _confirmation(
        self,
        request: HttpRequest,
        verb: Verb,
        chosen: Chosen,
        argument: str,
        found: Preview | None,
        error: str = "",
    ) -> HttpResponse:
        """Return the page of a preview, or without one that asks for the argument."""
        wording = WORDINGS[verb]
        is_exact = found is not None and not found.has_more and found.sampled == found.matched
        warns = verb in (Verb.CANCEL, Verb.DELETE) and found is not None
        return self.page(
            request,
            "admin/djjp/job/bulk.html",
            _("%(verb)s: %(jobs)s") % {"verb": wording.label, "jobs": chosen},
            verb=verb,
            wording=wording,
            chosen=chosen,
            argument=argument,
            argument_error=error,
            preview=found,
            sentence="" if found is None else matching(found),
            # Of a sample without any a later job can still be possible.
            is_possible=found is not None and bool(found.possible or not is_exact),
            possible=found.possible if found is not None and is_exact else None,
            running=_running(chosen) if warns else [],
            known_queues=offered("queue") if verb is Verb.MOVE else [],
            is_unserved=verb is Verb.MOVE and found is not None and not _is_served(argument),
            address=self.url("djjp_job_bulk", verb.value),
            query="" if chosen.filter is None else query_of(chosen.filter),
            back=_back(self.url("djjp_job_changelist"), request, chosen),
        )

    def _start(
        self, request: HttpRequest, verb: Verb, chosen: Chosen, argument: str
    ) -> HttpResponse:
        user: Any = request.user
        info = operations.start(
            verb,
            argument=argument,
            requested_by=f"admin:{user.get_username()}",
            **chosen.options(),
        )
        url = self.url("djjp_operation_change", info.id)
        done = sentence_of(info) if info.has_ended else _("Begun.")
        self.record(request, Operation, info.id, f"{WORDINGS[verb].label}: {chosen}", done)
        if not info.has_ended:
            return HttpResponseRedirect(url)
        text = format_html('{} <a href="{}">{}</a>', done, url, _("The operation"))
        self.notify(request, text, messages.SUCCESS if info.done else messages.WARNING)
        return HttpResponseRedirect(_back(self.url("djjp_job_changelist"), request, chosen))


def _verb(name: str) -> Verb | None:
    return Verb(name) if name in Verb else None


def _chosen(request: HttpRequest) -> Chosen | None:
    """Return the ticked jobs, or those of the filter of the address; None if that is wrong."""
    ticked = request.POST.getlist("_selected_action")
    if not ticked:
        wanted = Asked.of(request.GET).wanted
        return None if wanted is None else Chosen(wanted)
    try:
        return Chosen(None, tuple(dict.fromkeys(map(UUID, ticked))))
    except ValueError:
        raise BadRequest(_("What is ticked is not the id of a job.")) from None


def _back(url: str, request: HttpRequest, chosen: Chosen) -> str:
    """Return the address of the list from which an action came."""
    if chosen.filter is not None:
        return url + query_of(chosen.filter)
    return f"{url}?{request.GET.urlencode()}"


def _running(chosen: Chosen) -> Sequence[Job]:
    """Return the first running jobs among those of an action."""
    if chosen.filter is None:
        return [job for job in _rows(chosen.ids) if job.state == State.RUNNING][: NAMED + 1]
    if chosen.filter.state and State.RUNNING not in chosen.filter.state:
        return []
    return find(replace(chosen.filter, state=(State.RUNNING,)), limit=NAMED + 1).jobs


def _rows(ids: Sequence[UUID]) -> list[Job]:
    rows = Job.objects.using(engine.current().db.alias).filter(pk__in=ids).order_by("pk")
    return list(rows.defer("arguments", "result")) if ids else []


def _is_served(queue: str) -> bool:
    return Servers((info.queues, info) for info in consumers() if claims(info)).any(queue)
