"""Charts: SVG from numbers, without any style attribute, so that a strict CSP takes it; colours come from classes.

A chart is as wide as its box. Its lines are stretched, and its texts are not: the lines are in an inner picture
that has its own coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import ceil, floor, log10
from typing import NamedTuple

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from djjp.admin import display

#: The width of the plane of the lines, its height, and the pixels above it, for the marks.
WIDTH, HEIGHT, ABOVE = 1000, 128, 18
#: The characters of the label of a mark, and the part of the width within which only one of them has a label.
LONGEST_MARK, MARK_DISTANCE = 14, 0.25
#: The part of the width at each end in which a time has no room.
EDGE = 0.05

# The upper ends of axes of durations, in seconds; the half of each is readable too.
_DURATIONS = (
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 240, 600, 1200, 1800),
    *(3600, 7200, 14_400, 43_200, 86_400, 172_800),
)


class Line(NamedTuple):
    """A line of a chart.

    Attributes:
        style: the end of its class, which is "djjp-line-" and this.
        values: one for each interval, 0 or more; None where there is none: the line has a gap.
    """

    label: str
    style: str
    values: Sequence[float | None]


class Place(NamedTuple):
    """A text at a place of the axis of time, from 0 to 1."""

    at: float
    label: str


class Scale(NamedTuple):
    """An axis: its upper end for the largest value, and the text of a value."""

    end: Callable[[float], float]
    text: Callable[[float], str]


def chart(
    summary: str,
    lines: Sequence[Line],
    scale: Scale,
    ticks: Sequence[Place] = (),
    marks: Sequence[Place] = (),
) -> SafeString:
    """Return a chart of lines.

    Args:
        summary: what it shows, for screen readers.
        ticks: the texts beneath the axis of time.
        marks: vertical lines, each with its text above it.
    """
    largest = max(
        (value for line in lines for value in line.values if value is not None), default=0.0
    )
    end = scale.end(largest)
    return format_html(
        '<svg class="djjp-chart" role="img" aria-label="{}">'
        '<svg y="{}" width="100%" height="{}" viewBox="0 0 {} {}" preserveAspectRatio="none">{}{}{}</svg>{}</svg>',
        summary,
        ABOVE,
        HEIGHT,
        WIDTH,
        HEIGHT,
        format_html_join(
            "",
            '<path class="djjp-axis" d="M0 {}H{}"/>',
            ((y, WIDTH) for y in (0, HEIGHT // 2, HEIGHT)),
        ),
        format_html_join(
            "",
            '<path class="djjp-mark" d="M{0} 0V{1}"><title>{2}</title></path>',
            ((_number(mark.at * WIDTH), HEIGHT, mark.label) for mark in marks),
        ),
        format_html_join(
            "",
            '<path class="djjp-line djjp-line-{}" d="{}"/>',
            ((line.style, path(line.values, end)) for line in lines),
        ),
        _texts(scale, end, ticks, marks),
    )


def path(values: Sequence[float | None], end: float) -> str:
    """Return the path of a line; a value without neighbours is a dot."""
    parts, is_drawn = [], False
    for number, value in enumerate(values):
        if value is None:
            is_drawn = False
            continue
        x = (number + 0.5) / len(values) * WIDTH
        y = HEIGHT * (1 - min(max(value / end, 0.0), 1.0))
        parts.append(f"{'L' if is_drawn else 'M'}{_number(x)} {_number(y)}")
        if not is_drawn:
            parts.append("h0")
        is_drawn = True
    return "".join(parts)


def sparkline(counts: Sequence[int], summary: str) -> SafeString:
    """Return a row of small bars, one for each count."""
    most, height = max([*counts, 1]), 16
    bars = (
        f"M{4 * number + 1.5} {height}V{_number(height - max(1.5, height * count / most))}"
        for number, count in enumerate(counts)
        if count > 0
    )
    return format_html(
        '<svg class="djjp-sparkline" role="img" aria-label="{}" viewBox="0 0 {} {}" width="{}" height="{}">'
        '<path class="djjp-axis" d="M0 {}H{}"/><path class="djjp-bar" d="{}"/></svg>',
        summary,
        *(4 * len(counts), height, 4 * len(counts), height, height, 4 * len(counts)),
        "".join(bars),
    )


def end_of_numbers(largest: float) -> float:
    """Return the upper end of an axis of numbers: 1, 2, 4 or 10 of a power of ten."""
    if largest <= 0:
        return 1.0
    power = 10.0 ** floor(log10(largest))
    return next(power * each for each in (1, 2, 4, 10) if largest <= power * each * (1 + 1e-9))


def end_of_durations(largest: float) -> float:
    """Return the upper end of an axis of durations, in seconds."""
    found = next((float(each) for each in _DURATIONS if largest <= each), None)
    return found or 172_800.0 * ceil(largest / 172_800.0)


def number(value: float) -> str:
    """Return a number as an axis or a table has it: few digits, and whole from 100 on."""
    return display.number(
        f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 1 else f"{value:.2g}"
    )


NUMBERS = Scale(end_of_numbers, number)
DURATIONS = Scale(end_of_durations, lambda value: display.span(value) if value else "0")


def _texts(scale: Scale, end: float, ticks: Sequence[Place], marks: Sequence[Place]) -> SafeString:
    values = [
        (f"{ABOVE + HEIGHT * (1 - part):.0f}", scale.text(end * part)) for part in (0.0, 0.5, 1.0)
    ]
    return format_html(
        "{}{}{}",
        format_html_join("", '<text x="0" y="{}" dy="-3">{}</text>', values),
        format_html_join(
            "",
            '<text x="{}%" y="{}" text-anchor="middle">{}</text>',
            (
                (_number(tick.at * 100), ABOVE + HEIGHT + 15, tick.label)
                for tick in ticks
                if EDGE <= tick.at <= 1 - EDGE
            ),
        ),
        format_html_join(
            "",
            '<text class="djjp-mark-label" x="{}%" y="11" text-anchor="{}">{}</text>',
            (
                (_number(mark.at * 100), _anchor(mark.at), _cut(mark.label))
                for mark in _apart(marks)
            ),
        ),
    )


def _apart(marks: Sequence[Place]) -> Iterator[Place]:
    """Return the marks whose labels do not overlap, the newest of those that do."""
    before = 2.0
    for mark in sorted(marks, reverse=True):
        if before - mark.at >= MARK_DISTANCE:
            before = mark.at
            yield mark


def _anchor(at: float) -> str:
    return "start" if at < 0.12 else "end" if at > 0.88 else "middle"


def _cut(label: str) -> str:
    return label if len(label) <= LONGEST_MARK else f"{label[: LONGEST_MARK - 1]}…"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
