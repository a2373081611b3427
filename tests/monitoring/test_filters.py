"""One language of filters: what text and options mean, and what the errors name."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.http import QueryDict
from django.test import override_settings
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from djjp.models import State
from djjp.monitoring.filters import (
    KEYS,
    LONGEST_TEXT,
    Attempts,
    Filter,
    FilterError,
    search_terms,
)

ID = UUID("01234567-89ab-7cde-8f01-23456789abcd")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Filter()),
        ("  \n", Filter()),
        ("state:failed", Filter(state=(State.FAILED,))),
        ("state:ready state:failed", Filter(state=(State.READY, State.FAILED))),
        ("state:failed,ready,failed", Filter(state=(State.READY, State.FAILED))),
        ("queue:mail name:shop.*", Filter(queue="mail", name="shop.*")),
        ("name:shop.**.a?", Filter(name="shop.*.a?")),
        ("exception:shop.errors.Declined", Filter(exception="shop.errors.Declined")),
        ("tag:tenant-42 since:90s", Filter(tag="tenant-42", since=timedelta(seconds=90))),
        ("since:7d until:48h", Filter(since=timedelta(days=7), until=timedelta(hours=48))),
        ("until:15m", Filter(until=timedelta(minutes=15))),
        ("since:2026-01-31T12:00:00Z", Filter(since=datetime(2026, 1, 31, 12, tzinfo=UTC))),
        ("since:2026-01-31T12:00+02:00", Filter(since=datetime(2026, 1, 31, 10, tzinfo=UTC))),
        ('since:"2026-01-31 12:00Z"', Filter(since=datetime(2026, 1, 31, 12, tzinfo=UTC))),
        # A query string makes a space of "+".
        ('since:"2026-01-31T12:00 02:00"', Filter(since=datetime(2026, 1, 31, 10, tzinfo=UTC))),
        ("since:0001-01-01T00:00Z", Filter(since=datetime(1970, 1, 1, tzinfo=UTC))),
        (f"pipeline:{ID}", Filter(pipeline=ID)),
        (f"pipeline:{ID.hex}", Filter(pipeline=ID)),
        ("consumer:host:12:ab", Filter(consumer="host:12:ab")),
        ("unique_key:order:17", Filter(unique_key="order:17")),
        ('unique_key:"order 17"', Filter(unique_key="order 17")),
        ("unique_key:'say \"a\"'", Filter(unique_key='say "a"')),
        (r'unique_key:"a \"b\" \\ c"', Filter(unique_key=r'a "b" \ c')),
        (r"unique_key:a\b", Filter(unique_key=r"a\b")),
        ("queue:a,b", Filter(queue="a,b")),
        ("attempts:3", Filter(attempts=Attempts("=", 3))),
        ("attempts:>3", Filter(attempts=Attempts(">", 3))),
        ("attempts:>=3", Filter(attempts=Attempts(">=", 3))),
        ("attempts:<3", Filter(attempts=Attempts("<", 3))),
        ('attempts:"<= 3"', Filter(attempts=Attempts("<=", 3))),
    ],
)
def test_a_text_describes_a_filter(text: str, expected: Filter) -> None:
    assert Filter.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("mail", "", "'mail' is no term of a filter; write KEY:VALUE, with a key of state, queue"),
        (":mail", "", "no term of a filter"),
        ("queue: mail", "", "queue has no value"),
        ('queue:"mail', "", "is not closed"),
        ('queue:"mail"x', "", "is not closed"),
        ("stat:failed", "stat", "no key 'stat'; the keys are state, queue, name, exception, tag, "),
        ("stat:failed", "stat", "the closest is 'state'"),
        ("Queue:mail", "Queue", "the closest is 'queue'"),
        ("state:faild", "state", "state is 'faild'; it must be one of scheduled, blocked, ready, "),
        ("state:faild", "state", "the closest is 'failed'"),
        ("state:FAILED", "state", "the closest is 'failed'"),
        ("state:failed,", "state", "state is ''"),
        ("queue:a queue:b", "queue", "queue is given 2 times"),
        (f"queue:{'q' * 101}", "queue", "of 101 characters; it must have 1 to 100"),
        ('queue:""', "queue", "it must have 1 to 100"),
        ("queue:a\0b", "queue", "NUL"),
        ("tag:a\ud800", "tag", "surrogates"),
        (f"name:{'n' * 201}", "name", "1 to 200"),
        ("name:*a*b*c*d*", "name", "it can have 4 '*'"),
        ("since:yesterday", "since", "since is 'yesterday'; it must be a time such as 2026-01-31T"),
        ("since:2h30", "since", "or a span back such as 90s, 15m, 2h or 7d"),
        ("since:-2h", "since", "a span back such as"),
        ("since:2026-13-01", "since", "it must be a time"),
        ("until:99999999d", "until", "at most 36500d"),
        ("until:9999-12-31T23:59:59Z", "until", "before the year 9999"),
        ("since:2h until:3h", "until", "until is 3h; it must be after since, 2h"),
        ("since:2026-01-02T00:00Z until:2026-01-01T00:00Z", "until", "it must be after since"),
        ("pipeline:17", "pipeline", "pipeline is '17'; it must be the id of a pipeline, a UUID"),
        ("attempts:many", "attempts", "it must be a number such as 3, >3, >=3, <3 or <=3"),
        ("attempts:-1", "attempts", "it must be a number"),
        ("attempts:>99999999999", "attempts", "at most 2,147,483,647"),
    ],
)
def test_an_error_names_the_key_the_value_what_is_allowed_and_the_closest(
    text: str, key: str, message: str
) -> None:
    with pytest.raises(FilterError) as raised:
        Filter.parse(text)
    assert raised.value.key == key
    assert message in str(raised.value)


def test_a_text_that_is_too_long_is_refused() -> None:
    with pytest.raises(FilterError, match="the filter has 4,006 characters; at most 4,000"):
        Filter.parse("queue:" + "q" * LONGEST_TEXT)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ""),
        ({"state": None, "queue": [], "name": ()}, ""),
        ({"state": "failed", "queue": "mail"}, "state:failed queue:mail"),
        ({"state": ["failed", "ready,running"]}, "state:ready,running,failed"),
        ({"state": State.FAILED, "queue": ["mail"]}, "state:failed queue:mail"),
        ({"attempts": 0, "pipeline": ID}, f"pipeline:{ID} attempts:0"),
        ({"since": timedelta(hours=2)}, "since:2h"),
        ({"since": datetime(2026, 1, 31, tzinfo=UTC)}, "since:2026-01-31T00:00:00Z"),
        ({"unique_key": "a b"}, 'unique_key:"a b"'),
        ({"unique_key": '"'}, r'unique_key:"\""'),
    ],
)
def test_options_and_query_parameters_mean_the_same_as_text(
    options: dict[str, Any], expected: str
) -> None:
    assert str(Filter.of(options)) == expected
    assert Filter.parse(expected) == Filter.of(options)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"queue": ""}, "queue"),  # as from an unset variable of a shell: never all queues
        ({"queue": ["a", "b"]}, "queue"),
        ({"since": 5}, "since"),
        ({"since": timedelta(-1)}, "since"),
        ({"limit": 5}, "limit"),
        ({"name": 5}, "name"),
    ],
)
def test_options_that_are_wrong_are_refused_like_text(options: dict[str, Any], key: str) -> None:
    with pytest.raises(FilterError) as raised:
        Filter.of(options)
    assert raised.value.key == key


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("state=failed&state=ready&queue=mail", "state:ready,failed queue:mail"),
        ("state=failed,ready&name=shop.*", "state:ready,failed name:shop.*"),
        ("since=2026-01-31T12:00:00+02:00", "since:2026-01-31T10:00:00Z"),
        ("attempts=%3E3", "attempts:>3"),
    ],
)
def test_a_query_string_is_taken_as_it_is(query: str, expected: str) -> None:
    assert str(Filter.of(QueryDict(query))) == expected


def test_a_key_with_two_values_in_a_query_string_is_refused() -> None:
    with pytest.raises(FilterError, match="queue is given 2 times"):
        Filter.of(QueryDict("queue=a&queue=b"))


def test_a_time_without_a_zone_is_in_the_current_time_zone() -> None:
    with override_settings(USE_TZ=True), timezone.override("Asia/Tokyo"):
        assert str(Filter.parse("since:2026-01-31T12:00")) == "since:2026-01-31T03:00:00Z"
        assert str(Filter.parse("since:2026-01-31")) == "since:2026-01-30T15:00:00Z"
    with override_settings(USE_TZ=False, TIME_ZONE="Europe/Berlin"):
        assert str(Filter.parse("since:2026-01-31T12:00")) == "since:2026-01-31T11:00:00Z"


def test_a_filter_with_fixed_times_means_the_same_later() -> None:
    fixed = Filter.parse("queue:mail since:2h until:2026-01-31T12:00Z").fixed(1_769_860_800.0)
    assert str(fixed) == "queue:mail since:2026-01-31T10:00:00Z until:2026-01-31T12:00:00Z"
    assert fixed.fixed(0.0) == fixed
    assert str(Filter.parse("since:7d").fixed(0.0)) == "since:1970-01-01T00:00:00Z"


def test_a_filter_is_true_if_it_has_a_condition() -> None:
    assert not Filter()
    assert Filter.parse("attempts:0")


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
MOMENTS = st.one_of(
    st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9998, 12, 1)).map(
        lambda at: at.replace(tzinfo=UTC)
    ),
    st.integers(0, 36_500 * 86_400).map(lambda seconds: timedelta(seconds=seconds)),
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "state": st.lists(st.sampled_from(State)),
    "queue": TEXTS.map(lambda text: text[:100]),
    "name": TEXTS.map(lambda text: text.replace("*", "")[:190] + "*"),
    "exception": TEXTS.map(lambda text: text[:200]),
    "tag": TEXTS.map(lambda text: text[:100]),
    "since": MOMENTS,
    "until": MOMENTS,
    "pipeline": st.uuids(),
    "consumer": TEXTS.map(lambda text: text[:100]),
    "unique_key": TEXTS.map(lambda text: text[:200]),
    "attempts": st.integers(0, 2_147_483_647),
}


def test_each_key_has_values_below() -> None:
    assert tuple(VALUES) == KEYS


@given(st.fixed_dictionaries({}, optional=VALUES))
def test_the_text_of_a_filter_describes_the_same_filter(options: dict[str, Any]) -> None:
    if "until" in options:
        options.pop("since", None)  # which can be later
    made = Filter.of(options)
    assert Filter.parse(str(made)) == made
    assert Filter.of(made.texts()) == made


@given(st.text(max_size=60) | st.tuples(st.sampled_from(KEYS), TEXTS).map(":".join))
def test_a_wrong_text_is_an_error_of_filters_whatever_it_is(text: str) -> None:
    with suppress(FilterError):
        made = Filter.parse(text)
        assert Filter.parse(str(made)) == made


# The search box


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("state:failed queue:mail", {"state": ["failed"], "queue": ["mail"]}),
        ("receipt", {"name": ["*receipt*"]}),
        ("send receipt state:failed", {"name": ["*send*receipt*"], "state": ["failed"]}),
        ("shop.*", {"name": ["shop.*"]}),
        ('unique_key:"order 7" x', {"unique_key": ["order 7"], "name": ["*x*"]}),
        ("name:a b", {"name": ["a", "*b*"]}),
    ],
)
def test_plain_words_of_a_search_box_are_parts_of_a_name(
    text: str, values: dict[str, list[str]]
) -> None:
    assert search_terms(text) == values


@pytest.mark.parametrize("text", ["state:", 'name:"a', ":", "x" * 4_001])
def test_a_malformed_term_of_a_search_box_is_no_word(text: str) -> None:
    with pytest.raises(FilterError):
        search_terms(text)
