"""Histograms of durations as pictures and tables: a bar for each power of two."""

from __future__ import annotations

from typing import NamedTuple

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from djjp.admin import display
from djjp.engine.sums import FIRST_BUCKET, LAST_BUCKET
from djjp.monitoring.totals import Histogram

#: The width of a bar with its gap, and the height of the highest one, in units of the picture.
_STEP, _BAR, _HEIGHT = 20, 18, 100


class Bar(NamedTuple):
    """A bar: its durations in words, their number, and their part of all."""

    label: str
    number: int
    part: float


class Picture(NamedTuple):
    """A histogram for a template.

    Attributes:
        svg: the picture, without text besides titles.
        bars: the rows of the table, the shortest durations first; empty without a duration.
        percentiles: the quantile in per cent, with its duration in words.
    """

    svg: SafeString
    bars: list[Bar]
    percentiles: list[tuple[int, str]]
    total: int
    mean: float | None


def picture(histogram: Histogram) -> Picture:
    """Return a histogram for a template."""
    bars = _bars(histogram)
    percentiles = [
        (q, display.span(value))
        for q in (50, 95, 99)
        if (value := histogram.percentile(q)) is not None
    ]
    return Picture(_svg(bars), bars, percentiles, histogram.count, histogram.mean)


def _bars(histogram: Histogram) -> list[Bar]:
    """Return the bars from the first with a duration to the last one, with those between."""
    given = [bucket for bucket, number in histogram.buckets.items() if number]
    if not given:
        return []
    return [
        Bar(_label(bucket), number, number / histogram.count)
        for bucket in range(min(given), max(given) + 1)
        for number in [histogram.buckets.get(bucket, 0)]
    ]


def _label(bucket: int) -> str:
    lower, upper = display.span(2.0 ** (bucket - 1)), display.span(2.0**bucket)
    if bucket <= FIRST_BUCKET:
        return f"< {upper}"
    return f"> {lower}" if bucket >= LAST_BUCKET else f"{lower} – {upper}"


def _svg(bars: list[Bar]) -> SafeString:
    highest = max((bar.number for bar in bars), default=0)
    rects = [
        (
            at * _STEP + (_STEP - _BAR) // 2,
            # What is there can be seen, however little it is beside the rest.
            _HEIGHT - (height := max(2 * bool(bar.number), round(_HEIGHT * bar.number / highest))),
            _BAR,
            height,
            bar.label,
            display.number(bar.number),
        )
        for at, bar in enumerate(bars)
    ]
    return format_html(
        '<svg class="djjp-histogram" viewBox="0 0 {} {}" preserveAspectRatio="none" aria-hidden="true"'
        ' focusable="false">{}</svg>',
        max(1, len(bars)) * _STEP,
        _HEIGHT,
        format_html_join(
            "",
            '<rect x="{}" y="{}" width="{}" height="{}"><title>{}: {}</title></rect>',
            rects,
        ),
    )
