"""The dashboard: what is wrong, why, and the button that puts it right, on one page."""

from __future__ import annotations

import secrets
from collections.abc import Hashable
from typing import Any, NamedTuple

from django.contrib.messages import get_messages
from django.db import Error as DatabaseError
from django.http import HttpRequest
from django.template import Context
from django.template.loader import get_template, render_to_string
from django.utils import timezone
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import get_language

from djjp import conf, engine, unapplied
from djjp.admin import panel_rows, snapshot, trend_charts
from djjp.admin.remedies import address
from djjp.admin.rights import rights_of
from djjp.admin.snapshot import Snapshots
from djjp.admin.summary import summary
from djjp.durations import to_datetime
from djjp.exceptions import QueueUnavailable
from djjp.models import Job
from djjp.monitoring.failures import Failures, failures
from djjp.monitoring.filters import Filter
from djjp.monitoring.operations import OperationInfo, operations
from djjp.monitoring.overview import Overview, QueueInfo, overview
from djjp.monitoring.trends import SPANS, Live, Span, Trend, trend
from djjp.monitoring.upcoming import Upcoming, upcoming

#: The rows of a panel; its page has all of them.
ROWS = 10
#: The moments and rights of which the HTML is kept.
MOST_KEPT = 20
# Stands for the token of forms, which each user has for himself, in HTML that is drawn for all of them.
_TOKEN = secrets.token_hex(32)
#: The operations of which the panel has some, and the seconds for which failures are read.
OPERATIONS, FAILURES_SECONDS = 50, 0.05


class Present(NamedTuple):
    """The facts that change from one moment to the next.

    Attributes:
        has_jobs: whether the queue has any job.
    """

    overview: Overview
    upcoming: Upcoming
    operations: list[OperationInfo]
    has_jobs: bool


class Past(NamedTuple):
    """The facts about a span.

    Attributes:
        drawn: the HTML of the charts, by language, time zone and live jobs.
        panels: the HTML of all panels, by all that they depend on.
    """

    trend: Trend
    failures: Failures
    drawn: dict[tuple[str | None, str, Live], SafeString]
    panels: dict[Hashable, str]


def _present(key: str) -> Present:
    found = overview()
    has_jobs = bool(found.queues) or engine.run(
        lambda engine: Job.objects.using(engine.db.alias).exists()
    )
    return Present(found, upcoming(ROWS), operations(limit=OPERATIONS), has_jobs)


def _past(name: str) -> Past:
    span = SPANS[name]
    since = Filter.of({"since": f"{span.seconds}s"})
    return Past(trend(span), failures(since, limit=ROWS, time_limit=FAILURES_SECONDS), {}, {})


_PRESENT, _PAST = Snapshots(_present), Snapshots(_past)


def panels(request: HttpRequest) -> dict[str, Any] | None:
    """Return the values of the panels; None for a user who may not see the queue.

    Where the panels of this moment were drawn for a user with the same rights, it is their HTML alone.
    """
    rights = rights_of(request)
    if not rights.view:
        return None
    if request.method == "GET" and len(get_messages(request)):
        snapshot.clear()  # the user has just done something
    span = span_of(request)
    try:
        present, past = _PRESENT.get(), _PAST.get(span.name)
    except QueueUnavailable as error:
        return {"rights": rights, "unavailable": error, "remedy": _migrations()}
    site = getattr(request, "current_app", "admin")
    key = (present.at, rights, site, get_language(), timezone.get_current_timezone_name())
    if (html := past.value.panels.get(key)) is not None:
        return {"html": html}
    found = present.value.overview
    return {
        "rights": rights,
        "unavailable": None,
        "overview": found,
        **summary(
            found,
            past.value.trend.releases,
            present.cost,
            rights,
            site,
            has_jobs=present.value.has_jobs,
        ),
        "charts": _charts(past.value, _live(found.queues)),
        **panel_rows.queues(found.queues, site),
        **panel_rows.consumers(found.consumers, site),
        **panel_rows.failures(past.value.failures, span.name, site),
        **panel_rows.schedules(present.value.upcoming, site),
        "operations": panel_rows.operations(present.value.operations, site)[:ROWS],
        "outboxes": panel_rows.outboxes(found.outboxes, site),
        "kept": past.value.panels,
        "key": key,
        "span": span.name,
        "here": f"{address(site, 'app_list', 'djjp')}?span={span.name}",
        "taken_at": to_datetime(present.at),
        "statements": present.cost.statements + past.cost.statements,
        "milliseconds": round(1000 * (present.cost.seconds + past.cost.seconds)),
    }


def drawn(context: Context, board: dict[str, Any]) -> SafeString:
    """Return the HTML of the panels, with the token of this request in its forms."""
    html: str | None = board.get("html")
    if html is None:
        template: Any = get_template("admin/djjp/panels.html")
        with context.push(board=board, csrf_token=_TOKEN):
            html = template.template.render(context)
        kept = board.get("kept", {})
        if len(kept) >= MOST_KEPT:
            kept.clear()
        kept[board.get("key")] = html
    # The HTML was escaped when it was drawn, and a token has only letters and digits.
    return mark_safe(html.replace(_TOKEN, str(context.get("csrf_token", ""))))  # noqa: S308


def span_of(request: HttpRequest) -> Span:
    """Return the span of the address, or an hour."""
    return SPANS.get(request.GET.get("span", ""), SPANS["1h"])


def _migrations() -> str | None:
    """Return which migrations the queue's database lacks, with the command that applies them; None for none."""
    try:
        return unapplied.problem(conf.db_name(), "djjp")
    except DatabaseError:
        return None


def _charts(past: Past, live: Live) -> SafeString:
    """Return the charts of a span, which are drawn once for all open dashboards."""
    key = (get_language(), timezone.get_current_timezone_name(), live)
    if (html := past.drawn.get(key)) is None:
        context = {"charts": trend_charts.draw(past.trend, live)}
        html = past.drawn[key] = render_to_string("admin/djjp/charts.html", context)
    return html


def _live(queues: list[QueueInfo]) -> Live:
    return Live(*(sum(each.counts[state] for each in queues) for state in Live._fields))
