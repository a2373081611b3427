"""The summary: the first lines of the dashboard: the worst incident, what follows from it, what else is wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from django.contrib.admin.utils import quote
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from djjp.admin import display
from djjp.admin.remedies import Offer, address, offer
from djjp.admin.rights import Rights
from djjp.admin.snapshot import Cost
from djjp.durations import to_seconds
from djjp.jobs import registry
from djjp.monitoring.consumers import Life
from djjp.monitoring.detection import seems_over
from djjp.monitoring.incidents import Incident, manage
from djjp.monitoring.overview import OutboxInfo, Overview, QueueInfo
from djjp.monitoring.trends import Appearance

#: The kinds of incidents that a release can cause, and the seconds after it for which it is named.
CAUSED = (
    "failing",
    "consumer_lost",
    "wait",
    "backlog",
    "schedule_broken",
    "late_results",
    "loop_blocked",
)
SUSPECT = 1800.0
#: The kinds about a queue: of one queue, the later ones are consequences of the first one.
OF_QUEUE = ("no_consumer", "wait", "backlog")
#: The number of incidents that are shown; their page has all of them.
MOST_SHOWN = 10
#: Seconds for all statements, and for one, from which the queue's database counts as slow.
SLOW, SLOW_STATEMENT = 1.0, 0.1

# The beginning of the sentence of an incident that was not seen for a while.
_SEEN = re.compile(r"\Alast seen [^:]* ago: ")


class Shown(NamedTuple):
    """An incident as the summary shows it.

    Attributes:
        hint: the release that appeared shortly before it; "" for none.
        consequences: what follows from it: other incidents, without their remedies.
    """

    offer: Offer
    hint: str
    consequences: list[str]


class Note(NamedTuple):
    """Something that is wrong, or about to be, and that is no incident.

    Attributes:
        command: what puts it right, or shows more; "" for none.
        url: a page that shows more; None for none.
    """

    key: str
    text: str
    command: str = ""
    label: str = ""
    url: str | None = None


def summary(
    found: Overview,
    releases: Sequence[Appearance],
    cost: Cost,
    rights: Rights,
    site: str,
    *,
    has_jobs: bool,
) -> dict[str, Any]:
    """Return the values of the summary.

    Args:
        cost: of the facts about this moment.
        has_jobs: whether the queue has any job.
    """
    lasting, over = _lasting(found)
    causes = folded(lasting)
    shown = [
        Shown(
            offer(cause, rights, site),
            _hint(cause, releases),
            [each.what for each in others[:MOST_SHOWN]],
        )
        for cause, others in causes[:MOST_SHOWN]
    ]
    paused = [
        _pause(each, site) for each in found.queues if each.is_paused and each.counts["ready"]
    ]
    notes = [*_slow(cost), *_silent(found, site), *_refused(found.outboxes, site)]
    return {
        "worst": shown[0] if shown else None,
        "others": shown[1:],
        "more_incidents": len(causes) - len(shown),
        "incidents_url": address(site, "djjp_incident_changelist"),
        "over": [(each, _SEEN.sub("", each.what)) for each in over[:MOST_SHOWN]],
        "notes": notes,
        "paused": paused,
        "well": None if shown else _well(found, is_whole=not (paused or notes)),
        "first_steps": [] if shown or notes else _first_steps(found, has_jobs),
    }


def folded(incidents: Sequence[Incident]) -> list[tuple[Incident, list[Incident]]]:
    """Return each cause with the incidents that follow from it, the worst first.

    The death of a consumer that held no job comes last: it has no effect any more.
    """
    causes: list[tuple[Incident, list[Incident]]] = []
    for each in sorted(incidents, key=_is_without_effect):
        cause = next((worse for worse in causes if _follows(each, worse[0])), None)
        if cause is None:
            causes.append((each, []))
        else:
            cause[1].append(each)
    return causes


def _is_without_effect(incident: Incident) -> bool:
    facts = incident.facts
    return incident.kind == "consumer_lost" and not facts.get("jobs") and not facts.get("failed")


def _follows(incident: Incident, cause: Incident) -> bool:
    """Return whether an incident follows from a worse one."""
    if incident.kind == "outbox_behind":  # no consumer relays it, where none runs at all
        is_served = incident.facts.get("consumers", True) or cause.facts.get("others")
        return cause.kind == "no_consumer" and not is_served
    both = {incident.kind, cause.kind} <= {*OF_QUEUE}
    return both and incident.subject == cause.subject


def _lasting(found: Overview) -> tuple[list[Incident], list[Incident]]:
    """Return the incidents that last, and those that consumers find no longer and close soon."""
    if not any(each.life is Life.ALIVE for each in found.consumers):  # nobody searches regularly
        return found.incidents, []
    over = [each for each in found.incidents if seems_over(each)]
    return [each for each in found.incidents if each not in over], over


def _hint(incident: Incident, releases: Sequence[Appearance]) -> str:
    """Return which release appeared shortly before an incident; "" for none."""
    opened = to_seconds(incident.opened_at)
    before = [each for each in releases if 0 <= opened - each.at <= SUSPECT]
    if not before or incident.kind not in CAUSED:
        return ""
    release = display.lines(before[-1].release)
    words = {"release": release, "time": display.span(opened - before[-1].at)}
    return _("The release %(release)s had appeared %(time)s before.") % words


def _pause(queue: QueueInfo, site: str) -> dict[str, Any]:
    """Return a paused queue in which jobs wait, with the address that resumes it."""
    jobs = ngettext("%(count)s job waits", "%(count)s jobs wait", queue.counts["ready"])
    return {
        "name": queue.name,
        "shown": display.lines(queue.name),
        "until": queue.paused_until,
        "jobs": jobs % {"count": display.number(queue.counts["ready"])},
        "resume": address(site, "djjp_queue_resume", quote(queue.name)),
    }


# Notes


def _slow(cost: Cost) -> list[Note]:
    """Return that the queue's database is slow, by what the read of this page has cost."""
    if cost.seconds < SLOW or cost.seconds < SLOW_STATEMENT * max(1, cost.statements):
        return []
    text = _(
        "The queue's database is slow: %(statements)s statements for this page took %(time)s. Jobs start and end"
        " late, whatever the number of consumers. To test it:"
    )
    words = {"statements": cost.statements, "time": display.span(cost.seconds)}
    return [Note("slow", text % words, manage("djjp check"))]


def _silent(found: Overview, site: str) -> list[Note]:
    """Return which consumers send no heartbeats, and that none is alive although there are jobs."""
    notes = []
    page = address(site, "djjp_consumer_changelist")
    for each in (each for each in found.consumers if each.life is Life.SILENT):
        text = _(
            "The consumer %(name)s has sent no heartbeat for %(time)s: it is frozen, a job blocks it, or the"
            " queue's database does not take what it writes. To test the database:"
        )
        words = {"name": display.lines(each.name), "time": display.span(each.heartbeat_age)}
        command = manage("djjp check")
        notes.append(
            Note(f"silent-{each.name}", text % words, command, _("See the consumers"), page)
        )
    jobs = any(each.counts["ready"] + each.counts["running"] for each in found.queues)
    is_served = any(each.life is not Life.DEAD for each in found.consumers)
    if jobs and not is_served and not any(e.kind == "no_consumer" for e in found.incidents):
        ages = [each.heartbeat_age for each in found.consumers]
        if ages:
            text = _(
                "No consumer is alive: the last heartbeat came %(time)s ago. Unless one comes back, start one:"
            ) % {"time": display.span(min(ages))}
            command = manage("start_consumer")
            notes.append(Note("dead", text, command, _("See the consumers"), page))
    return notes


def _refused(outboxes: Sequence[OutboxInfo], site: str) -> list[Note]:
    """Return the outboxes with jobs that the queue has refused: nobody relays those."""
    notes = []
    for each in (each for each in outboxes if each.set_aside):
        jobs = ngettext("%(count)s job", "%(count)s jobs", each.set_aside)
        text = _(
            "%(jobs)s in the outbox of %(alias)s will not run: the queue has refused what was enqueued. See why,"
            " then relay again or delete:"
        )
        words = {
            "jobs": jobs % {"count": display.number(each.set_aside)},
            "alias": display.lines(each.alias),
        }
        url = address(site, "djjp_job_outbox", quote(each.alias))
        command = manage("djjp outbox")
        notes.append(Note(f"refused-{each.alias}", text % words, command, _("See the outbox"), url))
    return notes


# All is well


def _well(found: Overview, *, is_whole: bool) -> str:
    """Return that all is well, with what is going on.

    Args:
        is_whole: whether there is nothing else to report.
    """
    alive = sum(each.life is not Life.DEAD for each in found.consumers)
    if not alive:
        if not is_whole:
            return ""
        return _("All is well: no job waits, and no consumer runs.")
    running = sum(each.busy for each in found.consumers)
    words = {
        "consumers": ngettext("%(count)s consumer", "%(count)s consumers", alive)
        % {"count": alive},
        "jobs": ngettext("%(count)s job", "%(count)s jobs", running)
        % {"count": display.number(running)},
    }
    if is_whole:
        return _("All is well: %(consumers)s, %(jobs)s running.") % words
    return _("Apart from that, nothing is wrong: %(consumers)s, %(jobs)s running.") % words


def _first_steps(found: Overview, has_jobs: bool) -> list[tuple[str, str]]:
    """Return the next steps of a new queue, each with its command."""
    steps = []
    if not found.consumers:
        steps.append((_("No consumer runs. Start one:"), "python manage.py start_consumer"))
    if not has_jobs:
        name = next((each for each in registry.names() if each.isprintable()), "NAME")
        steps.append(
            (_("No job was enqueued yet. Enqueue one:"), f"python manage.py djjp enqueue {name}")
        )
    return steps
