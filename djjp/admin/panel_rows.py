"""The rows of the dashboard's panels: the facts with the addresses of the pages on which each has all its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from django.contrib.admin.utils import quote
from django.utils.translation import gettext as _

from djjp.admin import display, reasons
from djjp.admin.charts import sparkline
from djjp.admin.remedies import address
from djjp.durations import to_datetime, to_seconds
from djjp.models import State
from djjp.monitoring.consumers import ConsumerInfo, Life
from djjp.monitoring.failures import FailureGroup, Failures
from djjp.monitoring.operations import OperationInfo
from djjp.monitoring.overview import OutboxInfo, QueueInfo
from djjp.monitoring.upcoming import ScheduleInfo, Upcoming

#: The queues and consumers of their panels, and the names of running jobs of each consumer.
MOST_QUEUES, MOST_CONSUMERS, MOST_RUNS = 30, 20, 3
#: Seconds after its end for which an operation is shown.
RECENT = 86_400.0


def queues(found: Sequence[QueueInfo], site: str) -> dict[str, Any]:
    """Return the queues by name; of very many those whose jobs have waited for longest."""
    waits = sorted((each.oldest_wait or 0.0 for each in found), reverse=True)[:MOST_QUEUES]
    longest = [each for each in found if (each.oldest_wait or 0.0) >= waits[-1]] if waits else []
    return {
        "queues": longest[:MOST_QUEUES],
        "more_queues": max(0, len(found) - MOST_QUEUES),
        "queues_url": address(site, "djjp_queue_changelist"),
    }


def consumers(found: Sequence[ConsumerInfo], site: str) -> dict[str, Any]:
    """Return the consumers, those that are not alive first."""
    ordered = sorted(found, key=lambda each: (each.life is Life.ALIVE, each.name))
    return {
        "consumers": [_consumer(each, site) for each in ordered[:MOST_CONSUMERS]],
        "more_consumers": max(0, len(ordered) - MOST_CONSUMERS),
        "consumers_url": address(site, "djjp_consumer_changelist"),
        "has_releases": any(each.release for each in found),
    }


def _consumer(info: ConsumerInfo, site: str) -> dict[str, Any]:
    return {
        "name": info.name,
        "url": address(site, "djjp_consumer_change", quote(info.name)),
        "life": str(info.life),
        "quiet": info.quiet,
        "busy": info.busy,
        "limit": info.limit,
        "runs": [
            {
                "name": display.lines(run.name),
                "url": address(site, "djjp_job_name", quote(run.name)),
                "jobs": run.jobs,
                "since": run.since,
            }
            for run in info.runs[:MOST_RUNS]
        ],
        "more": max(0, len(info.runs) - MOST_RUNS),
        "heartbeat_at": info.heartbeat_at,
        "release": info.release,
    }


def failures(found: Failures, span: str, site: str) -> dict[str, Any]:
    """Return the groups of failed attempts, the largest first."""
    return {
        "groups": [_group(each, span, site) for each in found.groups],
        "looked_back_to": found.looked_back_to,
    }


def _group(group: FailureGroup, span: str, site: str) -> dict[str, Any]:
    filter = {"name": group.name, "exception": group.exception_class}
    bulk = address(site, "djjp_job_bulk", "retry")
    words = {"name": display.lines(group.name), "span": span}
    return {
        "key": f"{group.name} {group.exception_class} {group.frame}",
        "name": display.lines(group.name),
        "exception": display.lines(group.exception_class),
        "frame": "" if group.frame is None else display.lines(str(group.frame)),
        "message": display.lines(group.message.partition("\n")[0][:200]),
        "count": display.number(group.count),
        "newest": group.newest,
        "sparkline": sparkline(group.counts, _("Failures of %(name)s over %(span)s") % words),
        "jobs": f"{address(site, 'djjp_job_changelist')}?{urlencode(filter)}",
        "example": address(site, "djjp_job_change", group.example),
        "retry": bulk and f"{bulk}?{urlencode({'state': 'failed', **filter})}",
    }


def schedules(found: Upcoming, site: str) -> dict[str, Any]:
    """Return the schedules that need somebody, and those that are due next."""
    return {
        "schedules": [_schedule(each, site) for each in found.schedules],
        "schedules_url": address(site, "djjp_schedule_changelist"),
        "disabled": found.disabled,
        "more_schedules": found.enabled - len(found.schedules),
    }


def _schedule(info: ScheduleInfo, site: str) -> dict[str, Any]:
    row, last = info.row, info.row.last_occurrence
    job = info.last_state and address(site, "djjp_job_change", row.last_job)
    return {
        "pk": row.pk,
        "name": row.name,
        "url": address(site, "djjp_schedule_change", row.pk),
        "run": address(site, "djjp_schedule_run", row.pk),
        "problem": info.problem,
        "is_overdue": info.is_overdue,
        "next": None if info.next is None else to_datetime(info.next),
        "last": None if last is None else to_datetime(last),
        "last_url": job,
        "last_state": info.last_state,
        "last_label": State(info.last_state).label if info.last_state in State else "",
    }


def operations(found: Sequence[OperationInfo], site: str) -> list[dict[str, Any]]:
    """Return the operations that have not ended, and then the ones of the last day that have."""
    since = time.time() - RECENT
    return [
        {
            "id": each.id,
            "url": address(site, "djjp_operation_change", each.id),
            "title": display.lines(f"{each.verb.label} {each.argument}".strip()),
            "filter": display.lines(each.filter or ""),
            "state": each.state.label,
            "has_ended": each.has_ended,
            "done": display.number(each.done),
            "left_alone": reasons.of_many(each.skipped),
            "error": display.lines(each.error),
            "requested_by": display.lines(each.requested_by),
            "created_at": each.created_at,
        }
        for each in sorted(found, key=lambda each: each.has_ended)
        if not each.has_ended or to_seconds(each.finished_at or each.created_at) >= since
    ]


def outboxes(found: Sequence[OutboxInfo], site: str) -> list[dict[str, Any]]:
    """Return the outboxes."""
    return [
        {
            **each._asdict(),
            "waiting": None if each.waiting is None else display.number(each.waiting),
            "url": address(site, "djjp_job_outbox", each.alias),
        }
        for each in found
    ]
