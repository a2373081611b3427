"""The pages of a pipeline: what it does as a picture, and the confirmations of a retry and of a cancellation."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import URLPattern
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from djjp import engine
from djjp.admin import display
from djjp.admin.pages import PageAdmin
from djjp.admin.picture import LABELS, picture, state_label
from djjp.admin.rights import rights_of
from djjp.engine import Step
from djjp.exceptions import JobDoesNotExist
from djjp.models import LIVE, Job, State
from djjp.monitoring.explain import explain_pipeline
from djjp.monitoring.folding import BY_ATTENTION, Fold, Node, counted, fold, state_of
from djjp.monitoring.pipelines import (
    PipelineInfo,
    Rerun,
    pipeline,
    pipeline_of,
    rerun_of_jobs,
    rerun_of_pipeline,
)
from djjp.outbox import pending

#: The steps that a page lists at most: those that need the most attention, or a row for each name instead.
LISTED = 200

_UNSUCCESSFUL = (State.FAILED, State.CANCELLED)
_ATTENTION = {state.value: rank for rank, state in enumerate(BY_ATTENTION)}


class PipelinePages(PageAdmin):
    """The page of a pipeline, its retry and its cancellation."""

    def pages(self) -> list[URLPattern]:
        """Return the URLs of these pages."""
        root = "pipelines/<uuid:id>/"
        views = [
            (root, self.pipeline_view, "djjp_job_pipeline"),
            (f"{root}retry/", self.retry_view, "djjp_job_pipeline_retry"),
            (f"{root}retry/<uuid:job>/", self.retry_view, "djjp_job_pipeline_retry_step"),
            (f"{root}cancel/", self.cancel_view, "djjp_job_pipeline_cancel"),
        ]
        return [self.route(route, view, name) for route, view, name in views]

    # The page

    def pipeline_view(self, request: HttpRequest, id: UUID) -> HttpResponse:
        self.require(request, "view")
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        try:
            info = pipeline(id)
        except JobDoesNotExist:
            return self._missing(request, id, "djjp_job_pipeline")
        rights = rights_of(request)
        steps = [step for step in info.graph.steps if not step.is_hidden]
        culprits = self._culprits(info, with_messages=rights.arguments)
        return self.page(
            request,
            "admin/djjp/job/pipeline.html",
            _("Pipeline %(id)s") % {"id": id},
            live=not info.has_ended,
            info=info,
            sentence=display.lines(info.sentence),
            tone=_tone(info),
            culprits=culprits,
            other_culprits=len(info.culprits) + info.other_culprits - len(culprits),
            causes=[]
            if info.has_ended
            else [display.lines(cause.sentence) for cause in explain_pipeline(info)],
            progress=_progress(info),
            totals=[self._total(info, state) for state in info.counts],
            picture=picture(
                fold(info.graph),
                lambda step: self.url("djjp_job_change", step.id),
                lambda node, state: self._node_url(info.id, node, state),
            )
            if steps
            else None,
            rows=[self._row(step) for step in sorted(steps, key=_by_attention)[:LISTED]],
            is_cut=len(steps) > LISTED or not info.is_exact,
            all_jobs=self._list_url(info.id),
            can_retry=rights.operate and _can_retry(info),
            can_cancel=rights.operate and not info.has_ended,
        )

    def _missing(self, request: HttpRequest, id: UUID, page: str) -> HttpResponse:
        """Return the page of the pipeline to which a job with this id belongs, or one that says there is none."""
        if (other := pipeline_of(id)) is not None and other != id:
            return HttpResponseRedirect(self.url(page, other))
        return self.page(
            request, "admin/djjp/job/no_pipeline.html", _("No such pipeline"), status=404, id=id
        )

    def _culprits(self, info: PipelineInfo, *, with_messages: bool) -> list[dict[str, Any]]:
        """Return a row for each kind of failure."""
        found: dict[object, dict[str, Any]] = {}
        for step, exception_class, message in info.culprits:
            first_line = display.lines(message.partition("\n")[0][:300]) if with_messages else ""
            row = {
                **self._row(step),
                "exception_class": display.lines(exception_class),
                "message": first_line,
            }
            found.setdefault((step.name, step.state, exception_class, first_line), row)
        return list(found.values())

    def _row(self, step: Step) -> dict[str, Any]:
        return {
            "id": step.id,
            "name": display.lines(step.name),
            "queue": display.lines(step.queue),
            "url": self.url("djjp_job_change", step.id),
            "state": state_of(step).replace(" ", "-"),
            "label": state_label(step),
            "attempts": step.attempts,
            "is_on_failure": step.is_on_failure,
        }

    def _total(self, info: PipelineInfo, state: str) -> dict[str, Any]:
        return {
            "state": state,
            "label": LABELS.get(state, state),
            "number": f"{display.number(info.counts[state])}{'' if info.is_exact else '+'}",
            "url": self._list_url(info.id, state=state),
        }

    def _list_url(self, id: UUID, **conditions: str) -> str:
        """Return the address of the list of the jobs of a pipeline that meet some conditions."""
        query = urlencode({"pipeline": str(id), **conditions})
        return f"{self.url('djjp_job_changelist')}?{query}"

    def _node_url(self, id: UUID, node: Node, state: str) -> str:
        names = {"name": node.names[0]} if len(node.names) == 1 else {}
        if node.fold is Fold.ROW:
            names = {}
        return self._list_url(id, state=state, **names)

    # The confirmations

    def retry_view(self, request: HttpRequest, id: UUID, job: UUID | None = None) -> HttpResponse:
        """Show which steps a retry of the pipeline, or of one job of it, will run again; then do it."""
        self.require(request, "view", "operate")
        if job is not None and pipeline_of(job) != id:
            return self._missing(request, id, "djjp_job_pipeline_retry")
        if job is None and not self._known(id):
            return self._missing(request, id, "djjp_job_pipeline_retry")
        rerun = rerun_of_pipeline(id) if job is None else rerun_of_jobs([job])
        seen, changed = _digest(rerun), False
        if request.method == "POST":
            if rerun.again and request.POST.get("seen") == seen:
                return self._retried(request, id, job, len(rerun.again))
            changed = True
        back = self.url("djjp_job_pipeline", id)
        if job is not None:
            back = self.url("djjp_job_change", job)
        return self.page(
            request,
            "admin/djjp/job/pipeline_retry.html",
            _("Retry the pipeline") if job is None else _("Retry one step"),
            id=id,
            job=job,
            seen=seen,
            changed=changed,
            again=self._listed(id, rerun.again),
            count=len(rerun.again),
            on_failure=self._listed(id, rerun.on_failure),
            waiting=self._listed(id, rerun.waiting),
            pipeline_url=self.url("djjp_job_pipeline", id),
            back=back,
        )

    def _known(self, id: UUID) -> bool:
        return engine.run(
            lambda engine: Job.objects.using(engine.db.alias).filter(pipeline=id).exists()
        )

    def _retried(
        self, request: HttpRequest, id: UUID, job: UUID | None, steps: int
    ) -> HttpResponse:
        """Retry the pipeline or one job of it.

        Args:
            steps: the number of steps that run again, with those that depend on the job.
        """
        if job is None:
            count = engine.run(lambda engine: engine.control.retry_pipeline(id))
        else:
            count = engine.run(lambda engine: engine.control.retry([job]))
        back = self.url("djjp_job_pipeline", id)
        if not count:  # another one was faster
            self.notify(request, _("No job was retried: others have changed them meanwhile."))
            return HttpResponseRedirect(back)
        done = ngettext("Retried %(count)s job.", "Retried %(count)s jobs.", steps)
        text = done % {"count": display.number(steps)}
        shown = f"pipeline {id}" if job is None else f"job {job} of pipeline {id}"
        self.record(request, Job, job or id, shown, text)
        self.notify(request, text)
        return HttpResponseRedirect(back)

    def _listed(self, id: UUID, steps: list[Step]) -> list[dict[str, Any]]:
        """Return a row for each step; of many steps one for each name and state, with their number."""
        if len(steps) <= LISTED:
            return [{**self._row(step), "count": 0} for step in steps]
        found: list[dict[str, Any]] = []
        for (name, state), count in Counter((s.name, s.state) for s in steps).most_common(LISTED):
            found.append(
                {
                    "name": display.lines(name),
                    "state": state,
                    "label": LABELS.get(state, state),
                    "count": count,
                    "url": self._list_url(id, state=state, name=name),
                }
            )
        return found

    def cancel_view(self, request: HttpRequest, id: UUID) -> HttpResponse:
        """Show what the cancellation of a pipeline will stop; then do it."""
        self.require(request, "view", "operate")
        try:
            info = pipeline(id)
        except JobDoesNotExist:
            return self._missing(request, id, "djjp_job_pipeline_cancel")
        if request.method == "POST" and not info.has_ended:
            return self._cancelled(request, id)
        live = [step for step in info.graph.steps if step.state in LIVE and not step.is_hidden]
        counts = counted(live)
        running = counts.pop(State.RUNNING, 0)
        return self.page(
            request,
            "admin/djjp/job/pipeline_cancel.html",
            _("Cancel the pipeline"),
            id=id,
            info=info,
            more="" if info.is_exact else "+",
            running=[self._row(step) for step in live if step.state == State.RUNNING][:20],
            running_count=running,
            waiting_count=sum(counts.values()),
            ended_count=sum(1 for s in info.graph.steps if s.state not in LIVE and s.is_counted),
            pipeline_url=self.url("djjp_job_pipeline", id),
        )

    def _cancelled(self, request: HttpRequest, id: UUID) -> HttpResponse:
        counts: list[int] = []

        def cancel() -> int:
            verb = engine.run(lambda engine: engine.control.cancel_pipeline(id, time.time()))
            counts.append(verb)
            return verb

        pending.cancel(id, cancel)
        count = sum(counts)
        text = _("Cancelled the pipeline.")
        if count:
            jobs = ngettext("%(count)s job", "%(count)s jobs", count) % {
                "count": display.number(count)
            }
            text = _("Cancelled %(jobs)s. Running jobs receive the request and end soon.")
            text %= {"jobs": jobs}
        self.record(request, Job, id, f"pipeline {id}", text)
        self.notify(request, text, messages.SUCCESS)
        return HttpResponseRedirect(self.url("djjp_job_pipeline", id))


def _by_attention(step: Step) -> tuple[int, bool]:
    return _ATTENTION.get(step.state, -1), step.is_on_failure


def _tone(info: PipelineInfo) -> str:
    """Return the class of the sentence."""
    if info.state == State.FAILED or (info.state == State.RUNNING and info.culprits):
        return "djjp-bad"
    if info.state == State.SUCCEEDED:
        return "djjp-good"
    return "djjp-warn" if info.state == State.CANCELLED or info.next_step else "djjp-plain"


def _progress(info: PipelineInfo) -> dict[str, Any] | None:
    done, total = info.progress
    if info.has_ended or not total or not info.is_exact:
        return None
    return {
        "done": done,
        "total": total,
        "shown": f"{display.number(done)} / {display.number(total)}",
    }


def _can_retry(info: PipelineInfo) -> bool:
    """Return whether a retry can change anything; the confirmation shows what exactly."""
    return bool(info.counts) and (
        info.has_ended or any(info.counts.get(state) for state in _UNSUCCESSFUL)
    )


def _digest(rerun: Rerun) -> str:
    """Return a short text that differs if other steps would run again."""
    return sha256("".join(_ids(rerun)).encode()).hexdigest()[:32]


def _ids(rerun: Rerun) -> Iterable[str]:
    return (step.id.hex for step in rerun.again)
