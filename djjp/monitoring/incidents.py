"""Incidents: what is wrong with the queue, or was, each with a sentence and the command that puts it right."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import Q

from djjp import engine, models
from djjp.bounds import one_line
from djjp.durations import spelled, to_seconds
from djjp.engine import Engine
from djjp.engine.incidents import facts_of

#: The kinds of incidents, worst first: first what keeps jobs from running.
KINDS = (
    "no_consumer",
    "consumer_lost",
    "failing",
    "wait",
    "backlog",
    "outbox_behind",
    "schedule_broken",
    "late_results",
    "loop_blocked",
    "clock_skew",
    "unheard",
)


# Seconds since it was last seen from which an open incident shows that, because it may be over.
_STALE = 30.0


class Incident(NamedTuple):
    """Something that is or was wrong.

    Attributes:
        kind: one of `KINDS`.
        subject: the queue, job name, host, schedule or alias that it is about; "" for the queue as a whole.
        severity: the place of its kind in `KINDS`: 1 is the worst.
        seen_at: when it was last found to hold.
        closed_at: when it was found to hold no longer; None while it is open.
        sentence: what is wrong, with its figures; it ends in the remedy.
        remedy: a command that removes the cause, or shows it where only the code or a machine can be corrected.
        facts: the figures of the sentence.
    """

    id: UUID
    kind: str
    subject: str
    severity: int
    opened_at: datetime
    seen_at: datetime
    closed_at: datetime | None
    sentence: str
    remedy: str
    facts: dict[str, Any]

    @property
    def is_open(self) -> bool:
        """Return True until it was not found for a while."""
        return self.closed_at is None

    @property
    def what(self) -> str:
        """The sentence without the remedy in which it ends."""
        return self.sentence.removesuffix(f": {self.remedy}")

    @property
    def seconds(self) -> float:
        """The seconds for which it has been open, or was."""
        end = time.time() if self.closed_at is None else to_seconds(self.closed_at)
        return max(0.0, end - to_seconds(self.opened_at))


def incidents(
    *, open_only: bool = False, limit: int = 100, since: datetime | None = None
) -> list[Incident]:
    """Return the open incidents, worst first, and then the closed ones, newest first.

    Args:
        open_only: without the closed ones.
        limit: the number of incidents to return at most.
        since: only incidents that were open at this time or later; None for all that are kept.

    Raises:
        QueueUnavailable: the queue's database does not answer.
    """
    return engine.run(lambda engine: _incidents(engine, open_only, limit, since))


async def aincidents(
    *, open_only: bool = False, limit: int = 100, since: datetime | None = None
) -> list[Incident]:
    """`incidents` for coroutines."""
    return await engine.arun(lambda engine: _incidents(engine, open_only, limit, since))


def incident(id: UUID) -> Incident | None:
    """Return an incident; None if it is not kept any more."""

    def verb(engine: Engine) -> models.Incident | None:
        return models.Incident.objects.using(engine.db.alias).filter(pk=id).first()

    row = engine.run(verb)
    return None if row is None else of_row(row)


def closed(*, kind: str = "", before: UUID | None = None, limit: int = 100) -> list[Incident]:
    """Return closed incidents, the newest first.

    Args:
        kind: only of this kind; "" for all.
        before: only incidents that were opened before this one.
        limit: the number of incidents to return at most.
    """

    def verb(engine: Engine) -> list[Incident]:
        rows = models.Incident.objects.using(engine.db.alias).filter(closed_at__isnull=False)
        if kind:
            rows = rows.filter(kind=kind)
        if before is not None:
            rows = rows.filter(pk__lt=before)
        return [of_row(row) for row in rows.order_by("-pk")[:limit]]

    return engine.run(verb)


def worst() -> Incident | None:
    """Return the worst open incident; None if there is none."""
    return next(iter(incidents(open_only=True, limit=1)), None)


async def aworst() -> Incident | None:
    """`worst` for coroutines."""
    return next(iter(await aincidents(open_only=True, limit=1)), None)


def _incidents(
    engine: Engine, open_only: bool, limit: int, since: datetime | None
) -> list[Incident]:
    # Of those that are equally bad the one that has been open for longest comes first.
    found = sorted(map(of_row, engine.incidents.open()), key=lambda each: each[3:5])
    if not open_only and len(found) < limit:
        after = Q() if since is None else Q(closed_at__gte=since)
        rows = models.Incident.objects.using(engine.db.alias).filter(after, closed_at__isnull=False)
        found += map(of_row, rows.order_by("-pk")[: limit - len(found)])
    return found[:limit]


def of_row(row: models.Incident) -> Incident:
    """Return the incident of a row."""
    facts, subject = facts_of(row), str(row.subject)
    text, command = _TEXTS.get(row.kind, (_unknown, lambda subject, facts: manage("djjp status")))
    try:
        sentence, remedy = text(subject, facts), command(subject, facts)
    except (
        ArithmeticError,
        LookupError,
        TypeError,
        ValueError,
    ):  # a row by hand, or of another version
        sentence, remedy = _unknown(subject, facts), manage("djjp status")
    severity = KINDS.index(row.kind) + 1 if row.kind in KINDS else len(KINDS) + 1
    times = row.opened_at, row.seen_at, row.closed_at
    unseen = time.time() - to_seconds(row.seen_at)
    if row.closed_at is None and unseen >= _STALE:
        sentence = f"last seen {spelled(unseen)} ago: {sentence}"
    whole = f"{one_line(sentence)}: {remedy}"
    return Incident(row.pk, row.kind, subject, severity, *times, whole, remedy, facts)


def manage(command: str, option: str = "", value: str = "") -> str:
    """Return a command line of manage.py that a shell takes as it is.

    Args:
        option: the option that takes a value; "" for an argument.
    """
    words = [f"python manage.py {command}"]
    if value:
        text = shlex.quote(one_line(value))
        if value.startswith("-"):  # it must not be read as an option
            words.append(f"{option}={text}" if option else f"-- {text}")
        else:
            words += [option, text] if option else [text]
    return " ".join(words)


_WEIGHT = re.compile(r":\d+\Z")

# The sentence of each kind, and its remedy, from the subject and the facts

_Text = Callable[[str, Mapping[str, Any]], str]


def _unknown(subject: str, facts: Mapping[str, Any]) -> str:
    return f"something is wrong with {subject!r}" if subject else "something is wrong"


def _start(subject: str, facts: Mapping[str, Any]) -> str:
    # A comma separates queues, and a number at the end is a weight.
    queue = subject.replace(",", "*")
    return manage("start_consumer", "--queues", f"{queue}:1" if _WEIGHT.search(queue) else queue)


def _jobs(count: int) -> str:
    shown = "1,000 or more" if count > 1000 else f"{count:,}"
    return f"{shown} {'job waits' if count == 1 else 'jobs wait'}"


def _no_consumer(subject: str, facts: Mapping[str, Any]) -> str:
    jobs = _jobs(facts["jobs"]) if facts["jobs"] else "jobs wait"
    if running := facts.get("running", 0):
        held = f"{'1,000 or more' if running > 1000 else f'{running:,}'} {'job' if running == 1 else 'jobs'}"
        held += f" that ran on dead consumers {'waits' if running == 1 else 'wait'} for a rescue"
        jobs = f"{jobs} and {held}" if facts["jobs"] else held
    since = "" if facts["wait"] is None else f", the oldest for {spelled(facts['wait'])}"
    if others := facts.get("others", 0):
        since += (
            f"; {others:,} {'consumer serves' if others == 1 else 'consumers serve'} other queues"
        )
    if facts["quiet"]:
        return f"only quiet consumers serve the queue {subject!r}, where {jobs}{since}; have one claim again"
    return f"no consumer serves the queue {subject!r}, where {jobs}{since}; start one"


def _serve(subject: str, facts: Mapping[str, Any]) -> str:
    quiet = facts["quiet"]
    return manage("djjp consumers unquiet", "", quiet) if quiet else _start(subject, facts)


def _backlog(subject: str, facts: Mapping[str, Any]) -> str:
    growth = f"from {facts['before']:,} to {facts['ready']:,} ready jobs in 5 min"
    if facts["seconds"] is None:
        drained = "none has ended meanwhile"
    else:
        drained = f"at the present rate they take {spelled(facts['seconds'])}"
    return f"the queue {subject!r} grows, {growth}, and {drained}; start another consumer"


def _wait(subject: str, facts: Mapping[str, Any]) -> str:
    if "key" in facts:
        return _held_limit(subject, facts)
    if "unknown" in facts:
        count = facts["consumers"]
        none = "the only consumer of this queue has no such job"
        if count > 1:
            none = f"none of the {count:,} consumers of this queue has such a job"
        name, wait = facts["unknown"], spelled(facts["wait"])
        job = f"a job named {name!r} in the queue {subject!r} has waited for {wait}"
        return f"{job}: {none}; start one with the release that has it"
    job = f"a job in the queue {subject!r} has waited for {spelled(facts['wait'])}"
    limit = spelled(facts["limit"])
    if "slots" in facts:
        return f"{job}: {_held_slots(facts, limit)}"
    return f"{job}, longer than the {limit} of DJJP['wait_alert']; start another consumer"


def _held_slots(facts: Mapping[str, Any], limit: str) -> str:
    slots, consumers = facts["slots"], facts["consumers"]
    held = "the only slot" if slots == 1 else f"all {slots:,} slots"
    owners = "the only consumer" if consumers == 1 else f"the {consumers:,} consumers"
    held += f" of {owners} of this queue {'is' if slots == 1 else 'are'} held for over {limit}, by {facts['by']}"
    which = "" if slots == 1 else ", one of them"
    return f"{held}{which} for {spelled(facts['held'])} on {facts['consumer']}; {_then(facts)}"


def _then(facts: Mapping[str, Any]) -> str:
    if facts["cancelled"]:
        return "it was cancelled and has not stopped; see its stack, and stop its consumer"
    return "see its stack, and cancel it"


def _held_limit(subject: str, facts: Mapping[str, Any]) -> str:
    key, permits, jobs = facts["key"], facts["permits"], facts["jobs"]
    permit = "only permit" if permits == 1 else f"oldest of the {permits:,} permits"
    place = f" on {facts['consumer']}" if facts["consumer"] else ""
    held = f"has held the {permit} of the limit {key!r} for {spelled(facts['held'])}{place}"
    count = "over 100 jobs wait" if jobs > 100 else _jobs(jobs)
    waits = f"{count} for a permit in the queue {subject!r}, for {spelled(facts['wait'])}"
    return f"the job {facts['name']!r} {held}, and {waits}; {_then(facts)}"


def _let_go(subject: str, facts: Mapping[str, Any]) -> str:
    if "job" not in facts:
        return _start(subject, facts)
    if facts["cancelled"] and facts["consumer"]:
        return manage("djjp consumers stop", "", facts["consumer"])
    return manage("djjp cancel", "", facts["job"])


def _failing(subject: str, facts: Mapping[str, Any]) -> str:
    failed, ended = facts["failed"], facts["ended"]
    return f"{failed:,} of the {ended:,} jobs {subject!r} that ended in 5 min have failed; see why"


def _consumer_lost(subject: str, facts: Mapping[str, Any]) -> str:
    consumers, jobs = facts["consumers"], facts["jobs"]
    lost = "a consumer has died" if consumers == 1 else f"{consumers:,} consumers have died"
    failed = facts["failed"]
    failed = f", and {failed:,} {'has' if failed == 1 else 'have'} failed" if failed else ""
    held = f"{jobs:,} {'job was' if jobs == 1 else 'jobs were'} rescued{failed}"
    sentence = f"{lost} on {subject!r}, the last one {facts['name']}; {held}"
    if "job" not in facts:
        return f"{sentence}; see which are left"
    deaths = facts["deaths"]
    times = "it" if deaths == 1 else f"{deaths:,} consumers"
    ran = f"the job {facts['job_name']!r} ran when {times} died"
    if facts["ended"]:
        return f"{sentence}; {ran}, has failed by that and runs no more; see it"
    return f"{sentence}; {ran}, and runs again alone; cancel it if it is the cause"


def _lost_remedy(subject: str, facts: Mapping[str, Any]) -> str:
    if "job" not in facts:
        return _consumers(subject, facts)
    return manage("djjp show" if facts["ended"] else "djjp cancel", "", facts["job"])


def _late_results(subject: str, facts: Mapping[str, Any]) -> str:
    late = facts["late"]
    dropped = "outcome of a job" if late == 1 else "outcomes of jobs"
    return (
        f"{late:,} {dropped} {subject!r} came too late in 5 min and {'was' if late == 1 else 'were'} dropped: the"
        " consumer was frozen and had been declared dead, or the job was released or deleted; see the consumers"
    )


def _loop_blocked(subject: str, facts: Mapping[str, Any]) -> str:
    who = f"the coroutine job {subject!r}" if subject else "something that belongs to no job"
    times = "once" if facts["times"] == 1 else f"{facts['times']:,} times"
    return (
        f"{who} has blocked the event loop {times}, for up to {spelled(facts['longest'])}, the last time at"
        f" {facts['at']}; await there, or make it a plain function; see its jobs"
    )


def _clock_skew(subject: str, facts: Mapping[str, Any]) -> str:
    seconds = facts["seconds"]
    way = "ahead of" if seconds > 0 else "behind"
    return f"the clock of {subject!r} is {spelled(abs(seconds))} {way} that of {facts['other']}; set it right"


def _schedule_broken(subject: str, facts: Mapping[str, Any]) -> str:
    return (
        f"the schedule {subject!r} cannot be fired: {facts['problem']}; correct it, or disable it"
    )


def _outbox_behind(subject: str, facts: Mapping[str, Any]) -> str:
    then = "see what waits" if facts["consumers"] else "start a consumer, which relays it"
    return f"a job in the outbox of {subject!r} has waited for its relay for {spelled(facts['wait'])}; {then}"


def _unheard(subject: str, facts: Mapping[str, Any]) -> str:
    return f"{facts['problem']} on {subject!r}, so that consumers poll and start jobs later; see how to correct it"


def _relay(subject: str, facts: Mapping[str, Any]) -> str:
    return manage("djjp outbox") if facts["consumers"] else manage("start_consumer")


def _check(subject: str, facts: Mapping[str, Any]) -> str:
    return manage("djjp check")


def _consumers(subject: str, facts: Mapping[str, Any]) -> str:
    return manage("djjp consumers")


_TEXTS: dict[str, tuple[_Text, _Text]] = {
    "no_consumer": (_no_consumer, _serve),
    "consumer_lost": (_consumer_lost, _lost_remedy),
    "failing": (
        _failing,
        lambda subject, facts: manage("djjp failures", "--name", subject),
    ),
    "wait": (_wait, _let_go),
    "backlog": (_backlog, _start),
    "outbox_behind": (_outbox_behind, _relay),
    "schedule_broken": (
        _schedule_broken,
        lambda subject, facts: manage("djjp schedules disable", "", subject),
    ),
    "late_results": (_late_results, _consumers),
    "loop_blocked": (_loop_blocked, lambda subject, facts: manage("djjp jobs", "--name", subject)),
    "clock_skew": (_clock_skew, _check),
    "unheard": (_unheard, _check),
}
