"""The times of schedules for display: an occurrence in the schedule's time zone and in the viewer's."""

from __future__ import annotations

import time
from datetime import datetime
from zoneinfo import ZoneInfo

from django.utils import timezone
from django.utils.dateformat import format as formatted
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from djjp import schedules
from djjp.admin import display
from djjp.durations import to_datetime
from djjp.models import Schedule
from djjp.schedules.words import zone_in_words

#: The occurrences in the preview on the page of a schedule.
PREVIEWED = 5


def words(row: Schedule) -> SafeString:
    """Return when a schedule is due in words; its tooltip is how that is written."""
    text, written = schedules.words(row), schedules.when(row)
    if text == written:
        return format_html("{}", display.lines(text))
    return format_html('<span title="{}">{}</span>', display.lines(written), display.lines(text))


def occurrence(row: Schedule, at: float) -> SafeString:
    """Return an occurrence: how far it is away, and its local times."""
    return format_html(
        '{}<div class="djjp-zone">{}</div>',
        display.relative(to_datetime(at)),
        _local(row, at),
    )


def preview(row: Schedule) -> SafeString:
    """Return the next occurrences of a schedule as a list."""
    try:
        found = schedules.following(row, time.time(), PREVIEWED)
    except (ValueError, TypeError):
        return SafeString("")
    if not found:
        return format_html("{}", _("It is due at no time in the next 50 years."))
    items = format_html_join(
        "",
        "<li>{} {}</li>",
        ((_local(row, at), display.relative(to_datetime(at))) for at in found),
    )
    text = format_html('<ol class="djjp-occurrences">{}</ol>', items)
    if row.enabled:
        return text
    note = _("It is disabled: none of these has a job.")
    return format_html('{}<p class="djjp-note">{}</p>', text, note)


def _local(row: Schedule, at: float) -> SafeString:
    """Return the local time in the schedule's zone, and in the viewer's where the clocks show another."""
    viewer = datetime.fromtimestamp(at, timezone.get_current_timezone())
    viewers_zone = timezone.get_current_timezone_name()
    if not row.tz:  # of an interval
        return format_html("{} {}", _shown(viewer), zone_in_words(viewers_zone))
    own = datetime.fromtimestamp(at, ZoneInfo(row.tz))
    text = format_html(
        '<span title="{}">{} {}</span>', f"{own:%Z, UTC%z}", _shown(own), zone_in_words(row.tz)
    )
    if own.utcoffset() == viewer.utcoffset():
        return text
    same_day = own.date() == viewer.date()
    other = f"{viewer:%H:%M}" if same_day else _shown(viewer)
    return format_html(
        '{} <span class="djjp-note">({} {})</span>', text, other, zone_in_words(viewers_zone)
    )


def _shown(local: datetime) -> str:
    seconds = f":{local:%S}" if local.second or local.microsecond else ""
    return f"{formatted(local, 'D')} {local:%Y-%m-%d %H:%M}{seconds}"
