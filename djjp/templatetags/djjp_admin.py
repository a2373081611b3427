"""Template tags and filters of the admin's pages."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django import template
from django.contrib.admin.utils import quote
from django.template import Context
from django.utils.functional import Promise
from django.utils.safestring import SafeString

from djjp.admin import dashboard, display
from djjp.admin.job_stack import KINDS
from djjp.admin.picture import LABELS
from djjp.admin.tabs import Tab
from djjp.admin.tabs import tabs as tabs_of
from djjp.monitoring import Count
from djjp.monitoring.totals import Histogram

register = template.Library()


@register.simple_tag(takes_context=True)
def djjp_dashboard(context: Context) -> dict[str, Any] | None:
    """Return the values of the dashboard's panels; None for a user who may not see the queue."""
    return dashboard.panels(context["request"])


@register.simple_tag(takes_context=True)
def djjp_panels(context: Context, board: dict[str, Any]) -> SafeString:
    """Return the dashboard's panels, which are drawn once for all users with the same rights."""
    return dashboard.drawn(context, board)


@register.simple_tag(takes_context=True)
def djjp_tabs(context: Context) -> list[Tab]:
    """Return the tabs of the pages of the queue."""
    request = context["request"]
    return tabs_of(request, getattr(request, "current_app", "admin"))


@register.filter
def segment(name: str) -> str:
    """Return a name as a part of an address; of an empty one, of a row by hand, one that no name has."""
    return quote(name) or "_"


@register.filter
def ago(value: datetime | None) -> SafeString:
    """Return a time in relation to now, with the exact time as its tooltip and for screen readers."""
    return display.relative(value)


@register.filter
def span(seconds: float | None) -> str:
    """Return seconds as a duration, such as "3 min"."""
    return display.span(seconds)


@register.filter
def grouped(number: int | None) -> str:
    """Return a number with its thousands apart, such as "1,204"."""
    return "" if number is None else display.number(number)


@register.filter
def counted(count: Count) -> str:
    """Return the number of a search, such as "10,000+" where there are more."""
    return display.number(count.number) + ("" if count.is_exact else "+")


@register.filter
def state_label(state: str) -> str | Promise:
    """Return the state of a job in words."""
    return LABELS.get(state, state)


@register.filter
def stack_kind(kind: str) -> str | Promise:
    """Return the kind of a stack in words."""
    return KINDS.get(kind, kind)


@register.filter
def rate(per_minute: float | None) -> str:
    """Return a number of jobs in a minute, with a decimal where it is small."""
    if per_minute is None:
        return ""
    is_whole = per_minute >= 10 or not per_minute
    return display.number(f"{per_minute:.0f}" if is_whole else f"{per_minute:.1f}")


@register.filter
def share(part: float | None) -> str:
    """Return a part from 0 to 1 in per cent; a tiny one is not shown as none."""
    if part is None:
        return ""
    return "< 1 %" if 0 < part < 0.01 else f"{100 * part:.0f} %"


@register.filter
def plain(text: object) -> str:
    """Return a text with escapes for the characters that would act on the page."""
    return display.lines(str(text))


@register.filter
def percentile(histogram: Histogram, q: float) -> float | None:
    """Return the duration in seconds that a percentage of a histogram does not exceed."""
    return histogram.percentile(q)
