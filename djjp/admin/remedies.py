"""Remedies: what the pages offer against an incident: buttons, links to what it is about, and else a command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode
from uuid import UUID

from django.contrib.admin.utils import quote
from django.urls import NoReverseMatch, reverse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from djjp.admin.rights import Rights
from djjp.monitoring import Incident


class Act(NamedTuple):
    """A button or a link.

    Attributes:
        is_post: whether it changes something: a form that posts, and not a link.
        is_first: whether it is the remedy, and not a look at the cause.
    """

    label: str | Promise
    url: str
    is_post: bool = False
    is_first: bool = False


class Offer(NamedTuple):
    """The text and the acts that a page offers against an incident.

    Attributes:
        text: what is wrong, without the command.
        command: the command at the end of its sentence.
    """

    incident: Incident
    text: str
    command: str
    acts: list[Act]


def offer(incident: Incident, rights: Rights, site: str) -> Offer:
    """Return what a user can do about an incident.

    Args:
        site: the name of the admin site.
    """
    acts_of = _ACTS.get(incident.kind)
    acts = [] if acts_of is None else acts_of(incident)
    offered = [
        Act(label, url + query, is_post, is_first)
        for right, label, name, args, query, is_post, is_first in acts
        if getattr(rights, right) and (url := address(site, name, *args)) is not None
    ]
    return Offer(incident, incident.what, incident.remedy, offered)


def address(site: str, name: str, *args: object) -> str | None:
    """Return the address of a page of the queue; None if the site has no such page."""
    try:
        return reverse(f"admin:{name}", args=args, current_app=site)
    except NoReverseMatch:
        return None


class _Act(NamedTuple):
    """An act before its rights are tested and its address is known."""

    right: str
    label: str | Promise
    name: str
    args: tuple[object, ...] = ()
    query: str = ""
    is_post: bool = False
    is_first: bool = False


def _jobs(label: Promise, **filter: str) -> _Act:
    return _Act("view", label, "djjp_job_changelist", query=f"?{urlencode(filter)}")


def _unserved(incident: Incident) -> list[_Act]:
    acts = _of_queue(incident)
    if incident.facts.get("running") and not incident.facts.get("jobs"):
        acts[-1] = _jobs(_("See its running jobs"), queue=incident.subject, state="running")
    if quiet := _text(incident.facts, "quiet"):
        label = _("Have the consumer claim again")
        one = _Act("operate", label, "djjp_consumer_unquiet", (quote(quiet),))
        acts.insert(0, one._replace(is_post=True, is_first=True))
    return acts


def _of_queue(incident: Incident) -> list[_Act]:
    return [
        _Act("view", _("See the queue"), "djjp_queue_change", (quote(incident.subject),)),
        _jobs(_("See the waiting jobs"), queue=incident.subject, state="ready"),
    ]


def _waits(incident: Incident) -> list[_Act]:
    """Return what can be done about a wait: about the job that holds a permit or a slot, or of an unknown name."""
    facts = incident.facts
    if (id := _id(facts, "job")) is not None:
        consumer = _text(facts, "consumer")
        page = _Act("view", _("See the consumer"), "djjp_consumer_change", (quote(consumer),))
        return [
            _Act("arguments", _("See its stack"), "djjp_job_stack", (id,), is_first=True),
            _Act("operate", _("Cancel it"), "djjp_job_confirm_cancel", (id,)),
            _Act("view", _("See the job"), "djjp_job_change", (id,)),
            *([page] if consumer else []),
            _jobs(_("See the blocked jobs"), queue=incident.subject, state="blocked")
            if "key" in facts
            else _jobs(_("See the waiting jobs"), queue=incident.subject, state="ready"),
        ]
    if name := _text(facts, "unknown"):
        filter = {"name": name, "queue": incident.subject, "state": "ready"}
        cancel = ("djjp_job_bulk", ("cancel",), f"?{urlencode(filter)}")
        return [
            _jobs(_("See these jobs"), **filter),
            *_consumers(incident),
            _Act("operate", _("Cancel these"), *cancel),
        ]
    return [*_of_queue(incident), *_consumers(incident)]


def _of_name(incident: Incident) -> list[_Act]:
    if not incident.subject:  # something that belongs to no job
        return []
    return [
        _Act("view", _("See the name"), "djjp_job_name", (quote(incident.subject),)),
        _jobs(_("See its running jobs"), name=incident.subject, state="running"),
    ]


def _lost(incident: Incident) -> list[_Act]:
    name = _text(incident.facts, "name")
    jobs = [_jobs(_("See the jobs that it ran"), consumer=name)] if name else []
    acts = [*_consumers(incident), *jobs]
    if (id := _id(incident.facts, "job")) is not None:
        see = _Act("view", _("See the job"), "djjp_job_change", (id,), is_first=True)
        cancel = _Act("operate", _("Cancel it"), "djjp_job_confirm_cancel", (id,))
        acts = [see, *([] if incident.facts.get("ended") else [cancel]), *acts]
    return acts


def _failing(incident: Incident) -> list[_Act]:
    name = incident.subject
    query = f"?{urlencode({'state': 'failed', 'name': name})}"
    return [
        _Act(
            "view",
            _("See why"),
            "djjp_job_failures",
            query=f"?{urlencode({'name': name})}",
            is_first=True,
        ),
        _jobs(_("See the failed jobs"), state="failed", name=name),
        _Act("operate", _("Retry these"), "djjp_job_bulk", ("retry",), query),
    ]


def _schedule(incident: Incident) -> list[_Act]:
    number = incident.facts.get("schedule")
    if not isinstance(number, int):  # of a row by hand
        query = f"?{urlencode({'q': incident.subject})}"
        page = ("djjp_schedule_changelist", (), query)
        return [_Act("view_schedule", _("See the schedule"), *page)]
    disable = _Act("change_schedule", _("Disable it"), "djjp_schedule_disable", (number,))
    return [
        _Act("view_schedule", _("See the schedule"), "djjp_schedule_change", (number,)),
        disable._replace(is_post=True, is_first=True),
    ]


def _consumers(incident: Incident) -> list[_Act]:
    return [_Act("view", _("See the consumers"), "djjp_consumer_changelist")]


def _outbox(incident: Incident) -> list[_Act]:
    return [_Act("view", _("See what waits"), "djjp_job_outbox", (quote(incident.subject),))]


_ACTS: dict[str, Callable[[Incident], list[_Act]]] = {
    "no_consumer": _unserved,
    "wait": _waits,
    "backlog": lambda incident: [*_of_queue(incident), *_consumers(incident)],
    "failing": _failing,
    "consumer_lost": _lost,
    "late_results": lambda incident: [*_of_name(incident), *_consumers(incident)],
    "loop_blocked": _of_name,
    "schedule_broken": _schedule,
    "outbox_behind": _outbox,
    "clock_skew": _consumers,
    "unheard": _consumers,
}


def _id(facts: Mapping[str, Any], key: str) -> UUID | None:
    """Return the id of a job; None if there is none."""
    try:
        return UUID(_text(facts, key))
    except ValueError:
        return None


def _text(facts: Mapping[str, Any], key: str) -> str:
    value = facts.get(key)
    return value if isinstance(value, str) else ""
