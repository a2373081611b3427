"""Charts are SVG that a strict CSP takes, with axes that can be read, and gaps where nothing is known."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from djjp.admin.charts import (
    DURATIONS,
    HEIGHT,
    NUMBERS,
    WIDTH,
    Line,
    Place,
    chart,
    end_of_durations,
    end_of_numbers,
    number,
    path,
    sparkline,
)

SCRIPT = "<script>alert(1)</script>"


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314  (the SVG is our own)


def texts(svg: str) -> list[str]:
    return [each.text or "" for each in parsed(svg).iter("text")]


@pytest.mark.parametrize(
    ("largest", "end"),
    [
        (0, 1),
        (0.016, 0.02),
        (1, 1),
        (1.1, 2),
        (3, 4),
        (5, 10),
        (10, 10),
        (11, 20),
        (45_000, 100_000),
    ],
)
def test_an_axis_of_numbers_ends_at_a_round_number_whose_half_is_round(
    largest: float, end: float
) -> None:
    assert end_of_numbers(largest) == pytest.approx(end)
    assert len(number(end / 2).replace(",", "").strip("0.")) == 1


@pytest.mark.parametrize(
    ("largest", "texts"),
    [
        (0.0, ["0", "5 ms", "10 ms"]),
        (0.7, ["0", "500 ms", "1 s"]),
        (45, ["0", "30 s", "60 s"]),
        (61, ["0", "60 s", "2 min"]),
        (3601, ["0", "60 min", "2 h"]),
        (500_000, ["0", "3 days", "6 days"]),
    ],
)
def test_an_axis_of_durations_has_round_durations(largest: float, texts: list[str]) -> None:
    end = end_of_durations(largest)
    assert end >= largest
    assert [DURATIONS.text(end * part) for part in (0, 0.5, 1)] == texts


def test_a_line_is_drawn_from_value_to_value_with_gaps_and_dots() -> None:
    assert path([0, 10], 10) == f"M250 {HEIGHT}h0L750 0"
    assert path([None, 10, None, 5, 5], 10) == "M300 0h0M700 64h0L900 64"
    assert path([], 10) == ""
    assert path([None], 10) == ""


def test_a_value_beyond_the_axis_stays_in_the_picture() -> None:
    assert path([20, -1], 10) == f"M250 0h0L750 {HEIGHT}"


def test_a_chart_has_its_axes_its_lines_and_its_releases() -> None:
    svg = chart(
        "Ended per minute: 3",
        [Line("ended", "main", [1.0, 3.0]), Line("failed", "bad", [None, None])],
        NUMBERS,
        [Place(0.5, "03:00")],
        [Place(0.25, "1.2.0")],
    )

    assert texts(svg) == ["0", "2", "4", "03:00", "1.2.0"]
    root = parsed(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label") == "Ended per minute: 3"
    lines = [each for each in root.iter("path") if "djjp-line" in (each.get("class") or "")]
    assert [each.get("class") for each in lines] == [
        "djjp-line djjp-line-main",
        "djjp-line djjp-line-bad",
    ]
    [mark] = [each for each in root.iter("path") if each.get("class") == "djjp-mark"]
    assert mark.get("d") == f"M{WIDTH // 4} 0V{HEIGHT}"
    assert mark.findtext("title") == "1.2.0"


def test_nothing_of_a_chart_needs_an_inline_style_and_names_are_escaped() -> None:
    svg = chart(
        SCRIPT, [Line(SCRIPT, "main", [1])], NUMBERS, [Place(0.5, SCRIPT)], [Place(0.5, SCRIPT)]
    )
    svg += sparkline([1, 2], SCRIPT)

    assert "style" not in svg
    assert "<script" not in svg
    assert not re.search(r"\son\w+=", svg)


def test_a_chart_without_any_value_is_empty_and_valid() -> None:
    svg = chart("Nothing", [Line("ended", "main", [])], NUMBERS)
    assert texts(svg) == ["0", "0.5", "1"]


def test_releases_that_are_close_have_one_label_and_all_marks() -> None:
    marks = [Place(0.50, "1.0"), Place(0.52, "1.1"), Place(0.9, "a release with a long name")]
    svg = chart("x", [Line("ended", "main", [1])], NUMBERS, (), marks)

    assert texts(svg)[3:] == ["a release wit…", "1.1"]
    assert svg.count("<title>") == 3


def test_a_sparkline_has_a_bar_for_each_count_above_zero() -> None:
    svg = sparkline([0, 1, 0, 4], "Failures of shop.mail over 1h")
    root = parsed(svg)
    bars = [each.get("d") or "" for each in root.iter("path") if each.get("class") == "djjp-bar"]
    assert bars == ["M5.5 16V12M13.5 16V0"]
    assert root.get("aria-label") == "Failures of shop.mail over 1h"


def test_a_tiny_count_beside_a_huge_one_can_be_seen() -> None:
    assert 'V14.5"' in sparkline([1_000_000, 1], "x")
