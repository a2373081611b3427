from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.utils import timezone

import djjp
from djjp import codec
from djjp.admin import display
from djjp.models import State
from tests.support.admin import nothing_hidden


@pytest.fixture(name="nothing_hidden")
def unredacted() -> Iterator[None]:
    with nothing_hidden():
        yield


@pytest.mark.usefixtures("nothing_hidden")
def test_arguments_are_laid_out_with_their_tags_as_calls() -> None:
    text = codec.encode_arguments(
        (1, "ü", Decimal("9.90")),
        {
            "when": datetime(2026, 5, 4, tzinfo=UTC),
            "wait": timedelta(minutes=5, seconds=3),
            "key": UUID(int=7),
            "sizes": {3},
            "customer": {"name": "Ada Lovelace", "at": "12 St James's Square, London", "x": (1, 2)},
            "by_number": {1: "one"},
        },
        None,
    )
    positional, keyword = display.split_arguments("shop.jobs.pack", text)
    assert positional == '[1, "ü", decimal("9.90")]'
    assert keyword == (
        "{\n"
        '  "when": datetime("2026-05-04T00:00:00+00:00"),\n'
        '  "wait": timedelta("0:05:03"),\n'
        '  "key": uuid("00000000-0000-0000-0000-000000000007"),\n'
        '  "sizes": set([3]),\n'
        '  "customer": {\n'
        '    "name": "Ada Lovelace",\n'
        '    "at": "12 St James\'s Square, London",\n'
        '    "x": tuple([1, 2])\n'
        "  },\n"
        '  "by_number": dict([[1, "one"]])\n'
        "}"
    )


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -1.5, "", "a\0b", [], {}, [[]], {"a": []}, ["x" * 200, {"b": ["y" * 200]}]],
    ids=repr,
)
def test_a_value_without_tags_stays_json(value: object) -> None:
    assert json.loads(display.pretty_json(codec.encode_value(value, "result"))) == value


@pytest.mark.parametrize("number", ["9" * 5000, "0.1000000000000000055511151231257827", "1e400"])
def test_numbers_are_shown_as_they_were_written(number: str) -> None:
    assert display.pretty_json(f"[{number}]").replace("\n", "").replace(" ", "") == f"[{number}]"


@pytest.mark.usefixtures("nothing_hidden")
@pytest.mark.parametrize(
    "text",
    ["", "{", "not json", "[1,]", '"\x01"', "[" * 50_000, '{"a":' * 5_000],
    ids=["empty", "brace", "words", "comma", "control", "deep list", "deep dict"],
)
def test_damaged_text_is_shown_unchanged(text: str) -> None:
    assert display.pretty_json(text) == text
    assert display.split_arguments("shop.jobs.pack", text) == (text, None)


@pytest.mark.usefixtures("nothing_hidden")
@pytest.mark.parametrize(
    "text", ["[]", "null", "3", '{"args":3,"kwargs":{}}', '{"args":[]}', '{"kwargs":{}}']
)
def test_json_that_is_no_call_is_shown_unchanged(text: str) -> None:
    assert display.split_arguments("shop.jobs.pack", text) == (text, None)


@pytest.mark.parametrize(
    "text",
    [
        '{"$djjp": "of the future", "value": 1}',
        '{"$djjp": 3, "value": 1}',
        '{"$djjp": ["uuid"], "value": 1}',
        '{"$djjp": "uuid", "value": 1, "more": 2}',
        '{"$djjp": "uuid"}',
    ],
)
def test_an_object_that_resembles_a_tag_stays_json(text: str) -> None:
    assert json.loads(display.pretty_json(text)) == json.loads(text)


@pytest.mark.parametrize("payload", ["9" * 30, "1.5", '"soon"', "null", "NaN"])
def test_an_unreadable_timedelta_is_shown_with_its_payload(payload: str) -> None:
    assert payload in display.pretty_json(f'{{"$djjp": "timedelta", "value": {payload}}}')


def test_a_text_is_escaped_bounded_and_encodable() -> None:
    assert "<script>" not in display.block("<script>alert(1)</script>")
    assert (
        display.block(display.pretty_json('"\\ud800"'))
        == '<pre class="djjp-text">&quot;\\ud800&quot;</pre>'
    )
    long = display.block("x" * (display.MAX_TEXT + 1_234))
    assert "… and 1,234 more characters" in long
    assert len(long) < display.MAX_TEXT + 100


def test_no_character_acts_on_the_page_or_on_a_terminal_to_which_it_is_copied() -> None:
    text = "\u202eone\x1b[31m\ttwo\r\nthree\u2028"
    shown = "\\u202eone\\x1b[31m\ttwo\\r\nthree\\u2028"
    assert display.block(text) == f'<pre class="djjp-text">{shown}</pre>'
    assert display.one_line_error("\u202eE", text).startswith("\\u202eE")


def test_a_text_too_long_to_show_is_not_laid_out() -> None:
    text = json.dumps(["x"] * display.MAX_TEXT)
    assert display.pretty_json(text) is text


@pytest.mark.usefixtures("nothing_hidden")
@pytest.mark.parametrize("depth", [190, 450])
def test_nested_arguments_take_a_time_that_grows_only_with_their_size(depth: int) -> None:
    item: Any = list(range(100))
    for level in range(depth):
        item = [item] if level % 2 else {"within": item}
    width = 118_000 // len(json.dumps(item))
    text = json.dumps({"args": [item] * width, "kwargs": {"nested": item}})
    calls = 0

    def count_calls(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count_calls)
    try:
        positional, keyword = display.split_arguments("shop.jobs.pack", text)
    finally:
        sys.setprofile(None)

    assert calls < 60 * len(text)
    if keyword is None:  # nested more deeply than this thread's stack allows: the text itself
        assert (positional, depth) == (text, 450)
    else:
        assert json.loads(positional) == [item] * width
        assert json.loads(keyword) == {"nested": item}
    assert max(len(positional), len(keyword or "")) < 2 * len(text)


def test_what_needs_too_much_space_is_shown_on_one_line() -> None:
    shallow: Any = ["a text"]
    for _ in range(100):
        shallow = [shallow, "a text"]
    item = shallow
    for _ in range(200):
        item = [item, "a text"]

    assert "\n" in display.pretty_json(json.dumps(shallow))
    assert display.pretty_json(json.dumps([item] * 30)) == json.dumps([item] * 30)


def test_times_are_shown_to_the_second_in_the_current_time_zone() -> None:
    value = datetime(2026, 5, 4, 12, 30, 15, 250_000, tzinfo=UTC)
    with timezone.override("Europe/Berlin"):
        shown = str(display.timestamp(value))
    assert "<span>2026-05-04</span> <span>14:30:15</span>" in shown
    assert 'title="2026-05-04T14:30:15.250000+02:00"' in shown
    assert "12:30:15" in str(display.timestamp(value.replace(tzinfo=None)))
    assert display.timestamp(None) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "0 ms"),
        (0, "0 ms"),
        (0.0123, "12 ms"),
        (0.9999, "1.0 s"),
        (3.14, "3.1 s"),
        (59.96, "1 min 0 s"),
        (252, "4 min 12 s"),
        (3599.7, "1 h 0 min"),
        (90_061, "25 h 1 min"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, words: str) -> None:
    start = datetime(2026, 5, 4, tzinfo=UTC)
    assert display.duration(start, start + timedelta(seconds=seconds)) == words


def test_a_running_job_has_taken_the_time_until_now() -> None:
    assert display.duration(timezone.now() - timedelta(hours=2, seconds=30), None) == "2 h 0 min"
    assert display.duration(None, None) is None


def test_each_badge_has_enough_contrast() -> None:
    css = (Path(djjp.__file__).parent / "static/djjp/admin.css").read_text()
    colours = dict(re.findall(r"\.djjp-state-(\w+) \{ background: #(\w{6}); \}", css))
    assert set(colours) == set(State.values)
    for state, colour in colours.items():
        channels = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        assert 1.05 / (luminance + 0.05) >= 4.5, state  # WCAG AA for white text
