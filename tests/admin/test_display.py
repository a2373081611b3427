import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest
from django.utils import timezone

import djjp
from djjp import codec
from djjp.admin import display
from djjp.models import State


def test_arguments_are_laid_out_with_their_tags_in_words():
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
    positional, keyword = display.split_arguments(text)
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
def test_what_has_no_tags_stays_json(value):
    assert json.loads(display.pretty_json(codec.encode_value(value, "result"))) == value


@pytest.mark.parametrize("number", ["9" * 5000, "0.1000000000000000055511151231257827", "1e400"])
def test_numbers_are_shown_as_they_were_written(number):
    assert display.pretty_json(f"[{number}]").replace("\n", "").replace(" ", "") == f"[{number}]"


@pytest.mark.parametrize(
    "text",
    ["", "{", "not json", "[1,]", '"\x01"', "[" * 50_000, '{"a":' * 5_000],
    ids=["empty", "brace", "words", "comma", "control", "deep list", "deep dict"],
)
def test_damaged_text_is_shown_as_it_is(text):
    assert display.pretty_json(text) == text
    assert display.split_arguments(text) == (text, None)


@pytest.mark.parametrize(
    "text", ["[]", "null", "3", '{"args":3,"kwargs":{}}', '{"args":[]}', '{"kwargs":{}}']
)
def test_json_that_is_no_call_is_shown_as_it_is(text):
    assert display.split_arguments(text) == (text, None)


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
def test_what_only_looks_like_a_tag_stays_json(text):
    assert json.loads(display.pretty_json(text)) == json.loads(text)


@pytest.mark.parametrize("payload", ["9" * 30, "1.5", '"soon"', "null", "NaN"])
def test_a_timedelta_beyond_reading_is_shown_with_what_it_holds(payload):
    assert payload in display.pretty_json(f'{{"$djjp": "timedelta", "value": {payload}}}')


def test_a_text_is_escaped_and_bounded_and_can_always_be_sent():
    assert "<script>" not in display.block("<script>alert(1)</script>")
    assert (
        display.block(display.pretty_json('"\\ud800"'))
        == '<pre class="djjp-text">&quot;\\ud800&quot;</pre>'
    )
    long = display.block("x" * (display.MAX_TEXT + 1_234))
    assert "… and 1,234 more characters" in long
    assert len(long) < display.MAX_TEXT + 100


def test_a_text_too_long_to_show_is_not_laid_out():
    text = json.dumps(["x"] * display.MAX_TEXT)
    assert display.pretty_json(text) is text


def test_times_are_shown_to_the_second_in_the_current_time_zone():
    value = datetime(2026, 5, 4, 12, 30, 15, 250_000, tzinfo=UTC)
    with timezone.override("Europe/Berlin"):
        shown = display.timestamp(value)
    assert "<span>2026-05-04</span> <span>14:30:15</span>" in shown
    assert 'title="2026-05-04T14:30:15.250000+02:00"' in shown
    assert "12:30:15" in display.timestamp(value.replace(tzinfo=None))
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
def test_durations_are_told_in_two_units_at_most(seconds, words):
    start = datetime(2026, 5, 4, tzinfo=UTC)
    assert display.duration(start, start + timedelta(seconds=seconds)) == words


def test_a_running_job_has_taken_the_time_until_now():
    assert display.duration(timezone.now() - timedelta(hours=2, seconds=30), None) == "2 h 0 min"
    assert display.duration(None, None) is None


def test_every_badge_reads_well_on_its_own_background():
    css = (Path(djjp.__file__).parent / "static/djjp/admin.css").read_text()
    colours = dict(re.findall(r"\.djjp-state-(\w+) \{ background: #(\w{6}); \}", css))
    assert set(colours) == set(State.values)
    for state, colour in colours.items():
        channels = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        assert 1.05 / (luminance + 0.05) >= 4.5, state  # WCAG AA for white text
