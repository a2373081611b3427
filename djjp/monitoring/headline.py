"""Headline: one sentence about a job, for the top of its page: how it ended, how it runs, or what keeps it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.utils import timezone

from djjp.durations import ago, spelled, to_datetime, to_seconds
from djjp.engine.pipelines import NOT_NEEDED
from djjp.jobs import registry
from djjp.models import FINISHED, Attempt, Flag, Job, State
from djjp.monitoring.causes import ON_REQUEST, Cause
from djjp.monitoring.explain import Explanation

# The length to which texts of errors are cut.
_LONGEST = 300


def headline(
    found: Explanation,
    error: Attempt | None = None,
    *,
    shows_errors: bool = True,
    now: float | None = None,
) -> str:
    """Return one sentence about a job.

    Args:
        error: its last failed attempt; needed only for a job that waits for its next attempt.
        shows_errors: whether the sentence can have the messages of errors; their classes are in it in any case.
        now: the time, in seconds since the epoch; None for the current one.
    """
    job, now = found.job, time.time() if now is None else now
    if job.state in FINISHED:
        return _ended(job, found.causes[0].facts, now, shows_errors=shows_errors)
    worst = found.causes[0] if found.causes else None
    if worst is None:
        return "Waits"
    retried = ""
    if "scheduled" in found.codes and job.attempts:
        retried = _retried(job, error, now, shows_errors=shows_errors)
        if worst.code == "scheduled":
            return f"Will {retried}"
    text = _SENTENCES.get(worst.code, _waits)(job, worst, now)
    return f"{text}; it will {retried}" if retried else text


def most_attempts(job: Job) -> int | None:
    """Return the number of executions after which a failure is final; None if it is unknown or unbounded.

    Its call can have set it, else the job that is registered here under its name.
    """
    given = job.call_options
    if "max_attempts" in given:
        call: int | None = given["max_attempts"]
        return call
    registered = registry.find(job.name)
    return None if registered is None else registered.options.max_attempts


def attempt_of(number: int, most: int | None) -> str:
    """Return the number of an attempt: "2 of 5"; "2" where the largest number is unknown."""
    return str(number) if most is None else f"{number} of {most}"


def described(exception_class: str, message: str) -> str:
    """Return an exception on one line: its class without "builtins.", and the beginning of its message."""
    kind = exception_class.removeprefix("builtins.")
    first = next((line for line in message[: 4 * _LONGEST].splitlines() if line.strip()), "")
    text = f"{kind}: {first.strip()}" if first else kind
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def host_of(consumer: str | None) -> str:
    """Return the host of a consumer by its name, `host:pid:token`; of another name all of it."""
    name = consumer or ""
    host, pid, _ = [*name.rsplit(":", 2), "", ""][:3]
    return host if host and pid.isdigit() else name


# Ended


def _ended(job: Job, facts: dict[str, Any], now: float, *, shows_errors: bool) -> str:
    if job.state == State.SUCCEEDED:
        return _succeeded(job, now)
    if job.state == State.CANCELLED:
        return _cancelled(job, facts, now, shows_errors=shows_errors)
    count = job.attempts or 0
    tries = f" after {count} attempt{'' if count == 1 else 's'}" if count else ""
    if facts["exception_class"] is not None:
        message = facts["message"] or "" if shows_errors else ""
        return f"Failed{tries}: {described(facts['exception_class'], message)}"
    return f"Failed{tries}" + _because(job.reason, shows_errors=shows_errors)


def _succeeded(job: Job, now: float) -> str:
    text = f"Succeeded{_when(job.finished_at, now)}"
    if job.started_at is not None and job.finished_at is not None:
        text += f" after {spelled(to_seconds(job.finished_at) - to_seconds(job.started_at))}"
    return f"{text} on its {_ordinal(job.attempts)} attempt" if (job.attempts or 0) > 1 else text


def _cancelled(job: Job, facts: dict[str, Any], now: float, *, shows_errors: bool) -> str:
    when, reason = _when(job.finished_at, now), job.reason
    if reason == NOT_NEEDED:
        return f"Not needed: {reason}"
    if reason == ON_REQUEST:
        return f"Cancelled on request{when}"
    if facts["how"] == "expired":
        return f"Cancelled{when}: {reason}"
    if job.flags & Flag.CANCELLED_BY_PARENT:
        return f"Cancelled by its pipeline{when}" + _because(reason, shows_errors=shows_errors)
    return f"Cancelled{when}" + _because(reason, shows_errors=shows_errors)


def _because(reason: str | None, *, shows_errors: bool) -> str:
    first = (reason or "").strip().partition("\n")[0]
    if not first or not shows_errors:  # a reason can have the message of an error
        return ""
    return f": {first if len(first) <= _LONGEST else f'{first[:_LONGEST]}…'}"


# Live


def _retried(job: Job, error: Attempt | None, now: float, *, shows_errors: bool) -> str:
    """Return when a job will be retried, behind "will"."""
    number = job.attempts - job.rescues + 1
    due = "" if job.run_after is None else f" {ago(job.run_after, now)}"
    text = f"be retried{due} (attempt {attempt_of(number, most_attempts(job))})"
    if error is None:
        return text
    return f"{text}: {described(error.exception_class, error.message if shows_errors else '')}"


def _waits(job: Job, worst: Cause, now: float) -> str:
    return f"Waits: {worst.text}"


def _unknown(job: Job, worst: Cause, now: float) -> str:
    return f"Cannot run: {worst.text}"


def _paused(job: Job, worst: Cause, now: float) -> str:
    until = worst.facts["until"]
    ends = "until somebody resumes it" if until is None else f"until {_clock(until, now)}"
    return f"Waits: queue {job.queue} is paused {ends}"


def _parents(job: Job, worst: Cause, now: float) -> str:
    waiting = worst.facts["waiting_for"]
    if not waiting or job.flags & Flag.ON_FAILURE:
        return _waits(job, worst, now)
    text = f"Waits for {waiting[0]['name']} ({waiting[0]['state']})"
    if len(waiting) > 1:
        text += f" and {len(waiting) - 1} more of its parents"
    why = next(iter(worst.facts["causes"]), None)
    if why is None or why["code"] in ("running", "line"):
        return text
    return f"{text}: {Cause(why['code'], why['sentence'], worst.remedy, {}).text}"


def _scheduled(job: Job, worst: Cause, now: float) -> str:
    assert job.run_after is not None  # noqa: S101  (a job that is scheduled has it)
    return f"Waits: scheduled {ago(job.run_after, now)}, for {_clock(worst.facts['until'], now)}"


def _line(job: Job, worst: Cause, now: float) -> str:
    if worst.facts["before"] or worst.facts["suspect"]:
        return _waits(job, worst, now)
    return "Ready: it is the next one"


def _running(job: Job, worst: Cause, now: float) -> str:
    where, facts = host_of(job.consumer), worst.facts
    begun = "" if job.started_at is None else f" for {spelled(now - to_seconds(job.started_at))}"
    if facts["life"] == "dead":
        return f"Ran{begun} on {where}, whose consumer is dead"
    text = f"Runs{begun} on {where}{_share(job)}"
    if job.attempts > 1:
        number = job.attempts - job.rescues
        text += f", attempt {attempt_of(number, most_attempts(job))}"
    if facts["life"] == "silent":
        text += f", whose consumer has sent no heartbeat for {spelled(facts['heartbeat_age'])}"
    if job.cancel_requested:
        text += ", and is being cancelled"
    return text


def _share(job: Job) -> str:
    done, total = job.progress_done, job.progress_total
    if done is None:
        return ""
    return f", {100 * done // total} %" if total and total > 0 else f", {done:,} done"


_SENTENCES: dict[str, Callable[[Job, Cause, float], str]] = {
    "unknown": _unknown,
    "paused": _paused,
    "parents": _parents,
    "scheduled": _scheduled,
    "line": _line,
    "running": _running,
}


# Times


def _when(moment: datetime | None, now: float) -> str:
    return "" if moment is None else f" {ago(moment, now)}"


def _clock(text: str, now: float) -> str:
    """Return a time as it is read here; without its date if that is today's."""
    moment = timezone.localtime(datetime.fromisoformat(text))
    today = timezone.localtime(_aware(now)).date()
    short = f"{moment:%H:%M}"
    return short if moment.date() == today else f"{moment:%Y-%m-%d} {short}"


def _aware(now: float) -> datetime:
    moment = to_datetime(now)
    return moment if timezone.is_aware(moment) else timezone.make_aware(moment)


def _ordinal(number: int) -> str:
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"
