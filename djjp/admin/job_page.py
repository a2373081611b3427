"""The page of one job: a sentence about it, why it waits, what has happened to it, its errors, and its buttons."""

from __future__ import annotations

import time
from typing import Any, NamedTuple
from uuid import UUID

from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.db.models.functions import Left, Right
from django.http import HttpRequest, HttpResponse
from django.utils.functional import Promise
from django.utils.translation import gettext as _

from djjp import engine, redaction
from djjp.admin import display, job_facts
from djjp.admin.job_copy import JobCopy
from djjp.admin.job_delete import JobDelete
from djjp.admin.job_stack import JobStack
from djjp.admin.job_verbs import is_in_outbox, possible
from djjp.admin.pages import FRAGMENT_HEADER
from djjp.admin.pipeline import neighbours
from djjp.admin.rights import Rights, rights_of
from djjp.engine import Engine
from djjp.exceptions import JobDoesNotExist
from djjp.jobs import registry
from djjp.models import Attempt, Flag, Job, Schedule, State, Verb
from djjp.monitoring.causes import Cause
from djjp.monitoring.consumers import Life
from djjp.monitoring.explain import Explanation, explain
from djjp.monitoring.headline import headline, most_attempts
from djjp.monitoring.timeline import timeline

#: The failed attempts on a page, the latest ones; and those of them with their tracebacks.
ATTEMPTS_SHOWN, TRACEBACKS_SHOWN = 20, 3
#: The characters of a message, and of a traceback, at most: its end, which says what went wrong.
LONGEST_MESSAGE, LONGEST_TRACEBACK = 10_000, 120_000
# The end of the last traceback in which the innermost call of the project is searched while a page is refreshed.
_TAIL = 20_000


class Texts(NamedTuple):
    """The texts of a row that can be long, cut where a page would not show more."""

    arguments: str
    input: str | None
    result: str | None


class JobPage(JobCopy, JobDelete, JobStack):
    """The page of one job."""

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show a job, from the queue or from an outbox."""
        self.require(request, "view")
        if request.method not in ("GET", "HEAD"):
            raise PermissionDenied  # nobody edits a job
        id = unquote(object_id)
        try:
            found = explain(id)
        except JobDoesNotExist:
            return self.gone(request, id)
        rights = rights_of(request)
        attempts = engine.run(lambda engine: _attempts(engine, found.job.pk, rights))
        context = self._live(request, found, attempts, rights)
        if FRAGMENT_HEADER not in request.headers:
            context |= self._still(request, found, attempts, rights)
        job = found.job
        return self.page(
            request, "admin/djjp/job/page.html", display.lines(job.name), live=True, **context
        )

    def _live(
        self, request: HttpRequest, found: Explanation, attempts: list[Attempt], rights: Rights
    ) -> dict[str, Any]:
        """Return what is refreshed."""
        job, latest = found.job, attempts[:ATTEMPTS_SHOWN]
        last, most, now = (latest[0] if latest else None), most_attempts(job), time.time()
        events = timeline(job, latest[::-1], now=now)
        sentence = headline(found, last, shows_errors=rights.arguments, now=now)
        frame = ""
        if last is not None and rights.arguments and job.state in (State.FAILED, State.SCHEDULED):
            frame = job_facts.frame_of(_tracebacks([last.pk], _TAIL)[last.pk])
        return {
            "job": job,
            "badge": display.badge(job),
            "headline": display.lines(sentence),
            "tone": job_facts.tone(found),
            "frame": frame,
            "progress": display.progress(job.progress_done, job.progress_total),
            "bar": _bar(job),
            "buttons": self.buttons(request, found, rights),
            "remedies": job_facts.remedies(
                found.causes, job, lambda cause: self._remedy(request, job, cause, rights)
            ),
            "moments": job_facts.moments(events, job, most, self.change_url(job.pk)),
            "is_cut": len(attempts) > ATTEMPTS_SHOWN,
            "facts": job_facts.facts(
                job,
                self.link,
                self.url("djjp_job_changelist"),
                shows_texts=rights.arguments,
            ),
        }

    def _still(
        self, request: HttpRequest, found: Explanation, attempts: list[Attempt], rights: Rights
    ) -> dict[str, Any]:
        """Return what stays until the page is opened anew: long texts and forms."""
        job, in_outbox = found.job, is_in_outbox(found)
        verbs = possible(job, in_outbox=in_outbox) if rights.operate else []
        context: dict[str, Any] = {
            "list_url": self.with_filters(request, self.url("djjp_job_changelist")),
            "history_url": self.url("djjp_job_history", job.pk),
            "attempts": self._failures(request, job, attempts[:ATTEMPTS_SHOWN], rights),
            "neighbours": None if in_outbox else neighbours(job, self.admin_site.name),
            "schedule": self._schedule(job, rights),
            "move_url": self.url("djjp_job_move", job.pk) if Verb.MOVE in verbs else "",
            "queue": job.queue if display.lines(job.queue) == job.queue else "",
            "takes_input": bool(job.flags & (Flag.TAKES_INPUT | Flag.COLLECTS)),
            "takes_reason": bool(job.flags & Flag.ON_FAILURE),
            "priority_url": self.url("djjp_job_priority", job.pk) if Verb.PRIORITY in verbs else "",
        }
        texts = Texts(job.arguments, job.input, job.result) if in_outbox else self._texts(job.pk)
        if texts is not None:
            context["release"] = display.release_of(texts.arguments)
            context |= self._call(job, texts) if rights.arguments else {}
        return context

    def _call(self, job: Job, texts: Texts) -> dict[str, Any]:
        given, result = texts.input, texts.result
        return {
            "call": job_facts.call(job, texts.arguments),
            "hides_all": redaction.is_on() and not registry.can_run(job.name, texts.arguments),
            "input": given and job_facts.value_of(display.pretty_input(job.name, given)),
            "result": result and job_facts.value_of(display.pretty_result(result)),
        }

    def _texts(self, id: UUID) -> Texts | None:
        return engine.run(lambda engine: _texts(engine, id))

    def _failures(
        self, request: HttpRequest, job: Job, attempts: list[Attempt], rights: Rights
    ) -> list[dict[str, Any]]:
        """Return the failed attempts, latest first; the tracebacks of the latest, and of the chosen one."""
        chosen = request.GET.get("attempt", "")
        wanted = {each.pk for each in attempts[:TRACEBACKS_SHOWN]}
        wanted |= {each.pk for each in attempts if str(each.pk) == chosen}
        texts = _tracebacks(wanted, LONGEST_TRACEBACK) if rights.arguments and wanted else {}
        most = most_attempts(job)
        return [
            job_facts.attempt(each, most, texts.get(each.pk), LONGEST_TRACEBACK)
            | {
                "is_first": str(each.pk) == chosen or (number == 0 and not chosen),
                "url": f"?attempt={each.pk}#attempt-{each.pk}",
            }
            for number, each in enumerate(attempts)
        ]

    def _schedule(self, job: Job, rights: Rights) -> dict[str, str] | None:
        """Return the schedule whose last job this is."""
        if not rights.view_schedule:
            return None
        alias = engine.current().db.alias
        found = Schedule.objects.using(alias).filter(last_job=job.pk).values("pk", "name").first()
        if found is None:
            return None
        url = self.link("djjp_schedule_change", found["pk"])
        return {"name": display.lines(found["name"]), "url": url}

    def _remedy(
        self, request: HttpRequest, job: Job, cause: Cause, rights: Rights
    ) -> tuple[str | Promise, str, bool]:
        """Return the label and the address of the button that removes a cause, and whether it is a form."""
        facts = cause.facts
        match cause.code:
            case "paused" if rights.pause and facts["queue"] == job.queue:
                url = self.url("djjp_job_resume", job.pk)
                return _("Resume the queue"), self.with_filters(request, url), True
            case "no_consumer" if rights.operate and (name := _quiet(cause)):
                url = self.url("djjp_consumer_unquiet", quote(name))
                return _("Have it claim jobs again"), url, True
            case "scheduled" if rights.operate:
                url = self.url("djjp_job_run", job.pk)
                return _("Run now"), self.with_filters(request, url), True
            case "parents" if facts["deepest"] is not None:
                return (
                    _("Open the step it waits for"),
                    self.change_url(facts["deepest"]["id"]),
                    False,
                )
            case "parents" if facts["waiting_for"]:
                first = facts["waiting_for"][0]["id"]
                return _("Open the step it waits for"), self.change_url(first), False
            case "limit" if facts["held_by"]:
                holder = facts["held_by"][0]["id"]
                return _("Open the job that holds it"), self.change_url(holder), False
        return "", "", False


def _quiet(cause: Cause) -> str:
    """Return the name of the quiet consumer that a cause is about; "" if there is none."""
    alive = (each for each in cause.facts.get("consumers", []) if each["life"] == Life.ALIVE)
    return next((each["name"] for each in alive if each["quiet"]), "")


def _bar(job: Job) -> dict[str, int] | None:
    """Return the value and the maximum of a running job's progress bar; None where they make none."""
    done, total = job.progress_done, job.progress_total
    if job.state != State.RUNNING or done is None or not total or total <= 0:
        return None
    return {"value": min(max(done, 0), total), "max": total}


def _attempts(engine: Engine, id: UUID, rights: Rights) -> list[Attempt]:
    """Return the latest failed attempts without their tracebacks, latest first: one more than are shown."""
    rows = Attempt.objects.using(engine.db.alias).filter(job_id=id).order_by("-pk")
    names = ("pk", "number", "consumer", "started_at", "finished_at", "exception_class")
    texts = {"head": Left("message", LONGEST_MESSAGE)} if rights.arguments else {}
    return [
        Attempt(job_id=id, message=row.pop("head", "") or "", **row | _filled(row))
        for row in rows.values(*names, **texts)[: ATTEMPTS_SHOWN + 1]
    ]


def _filled(row: dict[str, Any]) -> dict[str, Any]:
    """Return what a row has in place of NULL, which only the table of another version can have."""
    empty = {"number": 0, "consumer": "", "exception_class": ""}
    return {name: value for name, value in empty.items() if row[name] is None}


def _tracebacks(ids: Any, longest: int) -> dict[int, str]:
    """Return the ends of tracebacks by the ids of their attempts."""

    def read(engine: Engine) -> dict[int, str]:
        rows = Attempt.objects.using(engine.db.alias).filter(pk__in=ids)
        found = rows.values_list("pk", Right("traceback", longest))
        return {pk: text or "" for pk, text in found}

    return {**dict.fromkeys(ids, ""), **engine.run(read)}


def _texts(engine: Engine, id: UUID) -> Texts | None:
    longest = redaction.LONGEST + 1
    columns = [Left(name, longest) for name in Texts._fields]
    row = Job.objects.using(engine.db.alias).filter(pk=id).values_list(*columns).first()
    return None if row is None else Texts(*row)
