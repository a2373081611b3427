"""The charts of a trend, with their legends, and the same numbers as the rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from django.utils import timezone
from django.utils.dateformat import format as formatted
from django.utils.formats import localize
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from djjp.admin import display
from djjp.admin.charts import DURATIONS, NUMBERS, Line, Place, Scale, chart, number
from djjp.durations import to_datetime
from djjp.monitoring.trends import SPANS, Interval, Live, Trend


class Legend(NamedTuple):
    """The entry of a line: the end of its class, its label, and its last value as text."""

    style: str
    label: str
    last: str


class Drawn(NamedTuple):
    """A chart."""

    key: str
    title: str
    svg: SafeString
    legend: list[Legend]


class Charts(NamedTuple):
    """The charts of a trend.

    Attributes:
        drawn: empty if there is nothing to draw.
        rows: those of the table, of the intervals with any number, the newest first.
        spans: the names of the spans to choose from.
    """

    span: str
    spans: list[str]
    drawn: list[Drawn]
    rows: SafeString
    releases: list[tuple[str, datetime]]


def draw(trend: Trend, now: Live | None = None) -> Charts:
    """Return the charts of a trend.

    Args:
        now: the live jobs of this moment, for a last interval without a sample; None where they are not known.
    """
    intervals = list(trend.intervals)
    if now is not None and intervals[-1].live is None:
        intervals[-1] = intervals[-1]._replace(live=now)
    known = [
        each
        for each in intervals
        if each.ended or each.wait_p50 is not None or any(each.live or ())
    ]
    return Charts(
        trend.span.name,
        list(SPANS),
        list(_charts(trend, intervals)) if known else [],
        _rows(known[::-1], trend),
        [(display.lines(each.release), to_datetime(each.at)) for each in trend.releases],
    )


def _charts(trend: Trend, intervals: Sequence[Interval]) -> Iterator[Drawn]:
    def values(value: Callable[[Interval], float | None]) -> list[float | None]:
        return [value(each) for each in intervals]

    def live(value: Callable[[Live], int]) -> list[float | None]:
        return [None if each.live is None else value(each.live) for each in intervals]

    def ends(number: Callable[[Interval], int]) -> list[float | None]:
        # A minute that has just begun is no fall, unless nothing else is known.
        whole = intervals[:-1] if any(each.ended for each in intervals[:-1]) else intervals
        running = [None] * (len(intervals) - len(whole))
        return [*(each.per_minute(number(each)) for each in whole), *running]

    ticks, marks = list(_ticks(trend)), list(_marks(trend))

    def drawn(key: str, title: str, lines: Sequence[Line], scale: Scale) -> Drawn:
        legend = [Legend(each.style, each.label, _last(each, scale)) for each in lines]
        svg = chart(_summary(title, lines, scale), lines, scale, ticks, marks)
        return Drawn(key, title, svg, legend)

    yield drawn(
        "ended",
        _("Ended per minute"),
        [
            Line(_("ended"), "main", ends(lambda each: each.ended)),
            Line(_("of these failed"), "bad", ends(lambda each: each.failed)),
        ],
        NUMBERS,
    )
    yield drawn(
        "waits",
        _("Wait until the start"),
        [
            Line(_("half of the jobs"), "main", values(lambda each: each.wait_p50)),
            Line(_("95 % of the jobs"), "second", values(lambda each: each.wait_p95)),
        ],
        DURATIONS,
    )
    yield drawn(
        "depth",
        _("Depth of the queues"),
        [
            Line(_("ready"), "main", live(lambda each: each.ready)),
            Line(_("running"), "second", live(lambda each: each.running)),
        ],
        NUMBERS,
    )


def _last(line: Line, scale: Scale) -> str:
    known = [value for value in line.values if value is not None]
    return scale.text(known[-1]) if known else ""


def _summary(title: str, lines: Sequence[Line], scale: Scale) -> str:
    """Return what a chart shows, in words."""
    parts = []
    for line in lines:
        known = [value for value in line.values if value is not None]
        if known:
            words = {
                "label": line.label,
                "last": scale.text(known[-1]),
                "most": scale.text(max(known)),
            }
            parts.append(_("%(label)s: %(last)s in the end, %(most)s at most") % words)
    return f"{title}: {'; '.join(parts)}" if parts else title


# There can be 168 of them: a template takes ten times as long.
_ROW = (
    '<tr data-key="{}"><th scope="row">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td>'
    "<td>{}</td><td>{}</td><td>{}</td><td>{}</td>"
)


def _rows(intervals: Iterable[Interval], trend: Trend) -> SafeString:
    """Return the rows of the table, with the releases that appeared in each interval if any did in one."""
    with_releases = bool(trend.releases)
    row = _ROW + ("<td>{}</td></tr>" if with_releases else "</tr>")
    return format_html_join(
        "\n", row, (_cells(each, trend, with_releases=with_releases) for each in intervals)
    )


def _cells(interval: Interval, trend: Trend, *, with_releases: bool) -> Iterator[object]:
    yield int(interval.starts_at)
    yield f"{_local(interval.starts_at):%Y-%m-%d %H:%M}"
    yield number(interval.per_minute(interval.ended))
    yield number(interval.per_minute(interval.failed))
    yield display.span(interval.wait_p50)
    yield display.span(interval.wait_p95)
    live = interval.live
    yield from (
        ("",) * 4
        if live is None
        else map(localize, (live.ready, live.running, live.scheduled, live.blocked))
    )
    if with_releases:
        since = interval.starts_at
        yield ", ".join(
            display.lines(each.release)
            for each in trend.releases
            if 0 <= each.at - since < trend.step
        )


def _ticks(trend: Trend) -> Iterator[Place]:
    """Return the times beneath a chart: each quarter of an hour, each six hours, or each day."""
    before: object = None
    count = len(trend.intervals)
    for position, interval in enumerate(trend.intervals):
        local = _local(interval.starts_at)
        part, text = _PARTS[trend.span.name]
        if before is not None and part(local) != before:
            yield Place(position / count, formatted(local, text))
        before = part(local)


_PARTS: dict[str, tuple[Callable[[datetime], object], str]] = {
    "1h": (lambda local: (local.hour, local.minute // 15), "H:i"),
    "24h": (lambda local: (local.date(), local.hour // 6), "H:i"),
    "7d": (lambda local: local.date(), "D j"),
}


def _marks(trend: Trend) -> Iterator[Place]:
    begins = trend.intervals[0].starts_at
    length = trend.step * len(trend.intervals)
    for each in trend.releases:
        yield Place(min(max((each.at - begins) / length, 0.0), 1.0), display.lines(each.release))


def _local(seconds: float) -> datetime:
    moment = to_datetime(seconds)
    return timezone.localtime(moment) if timezone.is_aware(moment) else moment
