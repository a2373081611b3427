"""Running: which consumer runs a job and how it goes, or how, when and why the job has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from djjp.durations import to_seconds
from djjp.engine import Engine
from djjp.engine.expiry import EXPIRED
from djjp.engine.line import MOST_LISTED
from djjp.models import Attempt, Flag, Job, State
from djjp.monitoring import shapes
from djjp.monitoring.causes import Cause, Surroundings, at, cause, quoted, shown, start
from djjp.monitoring.consumers import ConsumerInfo, Life

# The length to which a message is cut in a sentence.
_MAX_MESSAGE = 300


def running(engine: Engine, job: Job, around: Surroundings) -> list[Cause]:
    """Return which consumer runs a job and how it goes; of a job claimed ahead, also the jobs before it."""
    info = next((info for info, _ in around.consumers if info.name == job.consumer), None)
    since = job.started_at
    progress = (
        None
        if job.progress_done is None
        else {"done": job.progress_done, "total": job.progress_total}
    )
    facts: dict[str, Any] = {
        "consumer": job.consumer,
        "since": shapes.time(since),
        "attempt": job.attempts,
        "progress": progress,
        "cancel_requested": job.cancel_requested,
        "heartbeat_age": None if info is None else round(info.heartbeat_age, 3),
        "life": "dead" if info is None else str(info.life),
    }
    begun = "" if since is None else f" since {at(since)}"
    text = f"it runs on {job.consumer}{begun}, attempt {job.attempts}"
    if progress is not None:
        text += f", {job.progress_done} of {job.progress_total or '?'} done"
    if info is None or info.life is Life.DEAD:
        return [_abandoned(job, text, around, facts)]
    if info.life is Life.SILENT:
        host, pid, *_ = [*str(job.consumer).rsplit(":", 2), "", ""]
        text += f"; its consumer has sent no heartbeat for {info.heartbeat_age:.0f} s, as it is frozen or blocked"
        if not pid.isdigit():  # a row by hand
            return [cause("running", text, "to see the consumers", "djjp consumers", **facts)]
        remedy = f"kill -9 {pid}"
        sentence = f"{text}; to have its jobs rescued, on {host}: {remedy}"
        return [Cause("running", sentence, remedy, facts)]
    if job.cancel_requested:
        text += "; its cancellation was requested, and it has not stopped"
        stack = f"djjp consumers stack {quoted(str(job.consumer))}"
        return [cause("running", text, "to see where it is", stack, **facts)]
    running = cause("running", text, "to stop it", f"djjp cancel {job.pk}", **facts)
    # A job that has reported progress has started, whatever came before it.
    ahead = info.claimed_ahead and since is not None and progress is None
    if ahead and engine.line.claimed_before(job, to_seconds(since)) >= info.limit:
        return [busy(job, [info]), running]
    return [running]


def _abandoned(job: Job, text: str, around: Surroundings, facts: dict[str, Any]) -> Cause:
    others = any(info.life is Life.ALIVE for info, _ in around.consumers)
    text += "; its consumer is dead"
    if others:
        text += ", and another one rescues its jobs within seconds"
        return cause("running", text, "to see the consumers", "djjp consumers", **facts)
    text += ", and none is alive that would rescue its jobs"
    return cause("running", text, "to start one", start(job.queue), **facts)


def busy(job: Job, workers: Sequence[ConsumerInfo]) -> Cause:
    """Return the cause of a job that waits for a slot of these consumers."""
    slots = sum(info.limit for info in workers)
    groups: dict[str, int] = {}
    for info in workers:
        for run in info.runs:
            groups[run.name] = groups.get(run.name, 0) + run.jobs
    most = sorted(groups.items(), key=lambda group: (-group[1], group[0]))
    by = ", ".join(f"{count} × {name}" for name, count in most[:3])
    owners = (
        workers[0].name
        if len(workers) == 1
        else f"the {len(workers)} consumers that serve {job.queue}"
    )
    text = f"all {slots} slots of {owners} are taken, by {by}"
    facts = {
        "slots": slots,
        "taken_by": [{"name": name, "jobs": count} for name, count in most[:MOST_LISTED]],
        "consumers": [shown(info) for info in workers[:MOST_LISTED]],
    }
    return cause("busy", text, "to start another consumer", start(job.queue), **facts)


def ended(engine: Engine, job: Job, *, shows_errors: bool = True) -> Cause:
    """Return how a job has ended.

    Args:
        shows_errors: whether it can have the message of an error.
    """
    expired = job.state == State.CANCELLED and job.reason == EXPIRED
    facts = {
        "state": job.state,
        "how": "expired" if expired else job.state,
        "at": shapes.time(job.finished_at),
        "attempts": job.attempts,
        "reason": job.reason,
        "exception_class": None,
        "message": None,
    }
    when = "" if job.finished_at is None else f" at {at(job.finished_at)}"
    if job.state == State.SUCCEEDED:
        text = f"it succeeded{when}, in attempt {job.attempts}"
        return cause("ended", text, "to see its result", f"djjp show {job.pk}", **facts)
    if job.state == State.CANCELLED:
        why = f": {job.reason}" if job.reason else ""
        text = f"it was cancelled{when}{why}"
        by_parent = job.flags & Flag.CANCELLED_BY_PARENT
        then = "to run it and its parents again" if by_parent else "to run it again"
        return cause("ended", text, then, f"djjp retry {job.pk}", **facts)
    last = (
        Attempt.objects.using(engine.db.alias)
        .filter(job_id=job.pk)
        .order_by("-pk")
        .values_list("exception_class", "message")
        .first()
    )
    if last is not None:
        message = last[1][:_MAX_MESSAGE] if shows_errors else None
        facts["exception_class"], facts["message"] = last[0], message
        what = last[0] if message is None else f"{last[0]}: {message}"
    else:
        what = job.reason or ""
    text = f"it failed{when} after {job.attempts} attempts" + (f": {what}" if what else "")
    return cause("ended", text, "to run it again", f"djjp retry {job.pk}", **facts)
