"""Values come back from the codec as they were, and subclasses as their base."""

from __future__ import annotations

import enum
import json
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from django.db import models
from django.http import QueryDict
from django.utils.safestring import SafeString
from hypothesis import example, given, settings
from hypothesis import strategies as st

from djjp import codec
from djjp.codec import decode_arguments, decode_value, encode_arguments
from tests.support.codec import Celsius, Loud, exact, refusal, trip

BERLIN = ZoneInfo("Europe/Berlin")
HALF_SECOND = timezone(timedelta(milliseconds=500))
LORD_HOWE = timezone(timedelta(hours=10, minutes=30))
ODD_OFFSET = timezone(-timedelta(hours=1, minutes=2, seconds=3, microseconds=4))

# Round trips


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        -1,
        2**63,
        -(2**64) - 1,
        10**4000,
        0.0,
        -0.0,
        0.1,
        1e308,
        5e-324,
        1e16,
        "",
        "x",
        'it\'s "quoted" \\ud83d \\',
        "NUL \0 and \x1f and \u2028",
        "ünï😀",
        "\ud83d lone, high",
        "\udcff lone, low",
        "\ude00\ud83d lone, both, the wrong way round",
        "😀\ud83d",
        "$djjp",
        '{"$djjp": "uuid"}',
        [],
        [1, [2, [3, None]]],
        {},
        {"a": {"b": [1.5, "x"]}, "": None, "ü\0": 1},
    ],
    ids=ascii,
)
def test_json_values_come_back_as_they_were(value: Any) -> None:
    assert exact(trip(value)) == exact(value)


@pytest.mark.parametrize(
    "value",
    [
        datetime(2024, 2, 29, 12, 30, 1, 2),
        datetime(2024, 2, 29),
        datetime.min,
        datetime.max,
        datetime(2024, 1, 1, fold=1),
        datetime(2024, 1, 1, tzinfo=UTC),
        datetime(2024, 1, 1, tzinfo=UTC, fold=1),
        datetime(2024, 1, 1, tzinfo=LORD_HOWE),
        datetime(2024, 1, 1, tzinfo=ODD_OFFSET),
        datetime(2024, 1, 1, tzinfo=ODD_OFFSET, fold=1),
        datetime(2024, 1, 1, tzinfo=HALF_SECOND, fold=1),
        datetime(2024, 1, 1, tzinfo=timezone(-timedelta.resolution)),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=23, minutes=59))),
        datetime.max.replace(tzinfo=timezone(-timedelta(hours=23, minutes=59))),
        datetime(2024, 7, 1, 12, tzinfo=BERLIN),
        datetime(1880, 1, 1, tzinfo=BERLIN),  # local mean time: +00:53:28
        datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN),
        datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1),
        datetime(2024, 3, 31, 2, 30, tzinfo=BERLIN),  # a time that this day did not have
        datetime(2024, 1, 1, tzinfo=ZoneInfo("UTC")),
        date(2024, 2, 29),
        date.min,
        date.max,
        time(),
        time(23, 59, 59, 999999),
        time(2, 30, fold=1),
        time(12, tzinfo=UTC),
        time(12, tzinfo=ODD_OFFSET),
        time(12, tzinfo=HALF_SECOND),
        time(12, tzinfo=BERLIN),
        time(12, tzinfo=BERLIN, fold=1),
        time(12, tzinfo=ZoneInfo("UTC")),
        timedelta(),
        timedelta(days=-1, microseconds=1),
        timedelta.max,
        timedelta.min,
        timedelta.resolution,
        UUID("00000000-0000-0000-0000-000000000000"),
        UUID("ffffffff-ffff-7fff-bfff-ffffffffffff"),
        Decimal("9.90"),
        Decimal("-0"),
        Decimal("0E+3"),
        Decimal("1E-999999"),
        Decimal("1E+999999999999999999"),
        Decimal("1" * 5000 + ".0"),
        Decimal("NaN"),
        Decimal("-NaN123"),
        Decimal("sNaN"),
        Decimal("Infinity"),
        Decimal("-Infinity"),
        b"",
        bytes(range(256)),
        (),
        (1, (2, [3, ()])),
        set(),
        {1, "a", None, (2, frozenset({3}))},
        frozenset(),
        frozenset({UUID(int=1), date(2024, 1, 1)}),
    ],
    ids=ascii,
)
def test_other_values_come_back_by_their_tags(value: Any) -> None:
    assert exact(trip(value)) == exact(value)


def test_a_zone_comes_back_as_the_very_same_zone() -> None:
    assert trip(datetime(2024, 7, 1, tzinfo=BERLIN)).tzinfo is BERLIN
    assert trip(time(12, tzinfo=BERLIN)).tzinfo is BERLIN


@pytest.mark.parametrize(
    "value",
    [
        {1: "a", 2: "b"},
        {None: 0},
        {True: 0, 0: 1},
        {"a": 1, 1: "a"},
        {(1, "x"): [1], date(2024, 1, 1): {2: 3}, UUID(int=5): None},
        {frozenset({1}): {b"k": Decimal("1.0")}},
        {"b": 1, 2: 2, "a": 3},
        {1: "😀"},
    ],
    ids=repr,
)
def test_a_dict_with_other_keys_than_text_comes_back_with_its_keys_and_their_order(
    value: dict[Any, Any],
) -> None:
    assert exact(trip(value)) == exact(value)


@pytest.mark.parametrize(
    "value",
    [
        {"$djjp": "uuid", "value": "00000000-0000-0000-0000-000000000000"},
        {"$djjp": "no such tag"},
        {"$djjp": None},
        {"$djjp": {"$djjp": {"$djjp": "set", "value": []}}},
        {"$djjp": "tuple", "value": (1, 2)},
        [{"a": {"$djjp": "dict", "value": [[1, 2]]}}],
        {"$djjp": 1, 2: 3},
        {"value": 1},
    ],
    ids=repr,
)
def test_a_dict_that_looks_like_a_tag_comes_back_as_the_dict_it_was(value: Any) -> None:
    assert exact(trip(value)) == exact(value)


def test_an_argument_can_be_named_like_the_tag() -> None:
    assert decode_arguments(encode_arguments((), {"$djjp": "uuid"}, None)) == (
        [],
        {"$djjp": "uuid"},
    )


def test_arguments_are_the_json_that_one_would_write_by_hand() -> None:
    assert encode_arguments((42, "x"), {"copy": None}, None) == (
        '{"args":[42,"x"],"kwargs":{"copy":null}}'
    )
    assert encode_arguments((Decimal("9.90"),), {}, None) == (
        '{"args":[{"$djjp":"decimal","value":"9.90"}],"kwargs":{}}'
    )


def test_no_arguments_are_arguments() -> None:
    assert decode_arguments(encode_arguments((), {}, None)) == ([], {})


# Any value, nested in any container.

texts = st.text(st.characters(exclude_categories=())).filter(
    lambda text: json.loads(json.dumps(text)) == text
)
zones = st.none() | st.timezones()
DAY = timedelta(days=1) - timedelta.resolution
offsets = st.builds(timezone, st.timedeltas(-DAY, DAY))
hashables: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.binary()
    | st.dates()
    | st.datetimes(timezones=zones | offsets, allow_imaginary=True)
    | st.times(timezones=zones | offsets)
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
values: st.SearchStrategy[Any] = st.recursive(
    hashables | st.decimals(allow_nan=True),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.sets(hashables, max_size=4)
        | st.dictionaries(texts | st.just("$djjp"), inner, max_size=4)
        | st.dictionaries(hashables, inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(values)
@example({"$djjp": {1: {"$djjp"}}})
@example(time(tzinfo=timezone(timedelta.resolution)))  # found here: as text it is no offset at all
def test_any_value_comes_back_exactly(value: Any) -> None:
    assert exact(trip(value)) == exact(value)


@settings(max_examples=200, deadline=None)
@given(st.text() | st.from_regex(r'\{"\$djjp":"[a-z]+","value":("?[0-9:T\-]*"?|\[.*\])\}'))
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    try:
        decode_value(text)
    except ValueError as error:
        assert str(error).startswith("cannot decode")  # noqa: PT017  (it need not raise)


# Subclasses


class Colour(models.TextChoices):
    RED = "red", "Red"


class Level(enum.IntEnum):
    HIGH = 3


class Old(str, enum.Enum):  # noqa: UP042  (as it was written before StrEnum)
    ONE = "one"


class Access(enum.IntFlag):
    READ = 4
    WRITE = 2


class Reversed(list[Any]):
    def __iter__(self) -> Any:
        return reversed([*super().__iter__()])


class FakeDate(date):
    pass


class FakeDatetime(datetime, FakeDate):
    pass


class Duration(timedelta):
    @property
    def days(self) -> int:
        return 7


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (SafeString("<b>"), "<b>"),
        (Colour.RED, "red"),
        (enum.StrEnum("Size", {"S": "small"}).S, "small"),  # type: ignore[attr-defined]
        (Old.ONE, "one"),
        (Loud("quiet"), "quiet"),
        (Level.HIGH, 3),
        (Access.READ | Access.WRITE, 6),
        (Celsius(1.5), 1.5),
        (type("Weight", (Decimal,), {})("1.50"), Decimal("1.50")),
        (type("Id", (UUID,), {})(int=5), UUID(int=5)),
        (type("Blob", (bytes,), {})(b"\xff"), b"\xff"),
        (type("Items", (list,), {})([1, (2,)]), [1, (2,)]),
        (Reversed([1, 2]), [1, 2]),
        (type("Tags", (set,), {})({1}), {1}),
        (type("Tags", (frozenset,), {})({1}), frozenset({1})),
        (Point(1, Point(2, 3)), (1, (2, 3))),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (defaultdict(list, {"a": [1]}), {"a": [1]}),
        (Counter("aab"), {"a": 2, "b": 1}),
        (QueryDict("a=1&a=2"), {"a": ["1", "2"]}),
        ({SafeString("k"): 1, Colour.RED: 2}, {"k": 1, "red": 2}),
        ({Level.HIGH: 1}, {3: 1}),
        (FakeDate(2024, 1, 2), date(2024, 1, 2)),
        (FakeDatetime(2024, 1, 2, 3, tzinfo=BERLIN), datetime(2024, 1, 2, 3, tzinfo=BERLIN)),
        (type("Noon", (time,), {})(12, fold=1), time(12, fold=1)),
        (Duration(days=1, seconds=5), timedelta(days=1, seconds=5)),
    ],
    ids=ascii,
)
def test_a_value_of_a_subclass_arrives_as_its_base(value: Any, arrives: Any) -> None:
    assert exact(trip(value)) == exact(arrives)
    assert exact(trip([value])) == exact([arrives])


def test_a_frozen_clock_in_this_module_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Freezing puts a subclass in place of each `datetime` and `date` that a module imported."""
    monkeypatch.setattr(codec, "datetime", FakeDatetime)
    monkeypatch.setattr(codec, "date", FakeDate)
    for value in (
        FakeDatetime(2024, 1, 2, tzinfo=UTC),
        datetime(2024, 1, 2, tzinfo=UTC),
        datetime(2024, 1, 2, tzinfo=BERLIN),
    ):
        assert type(trip(value)) is datetime
    assert type(trip(FakeDate(2024, 1, 2))) is date
    assert type(trip(date(2024, 1, 2))) is date


class Foreign(tzinfo):
    """A tzinfo of another class, as in pytz and dateutil."""

    def __init__(self, offset: timedelta | None) -> None:
        self.offset = offset

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        return self.offset

    def dst(self, moment: datetime | None) -> timedelta | None:
        return None

    def tzname(self, moment: datetime | None) -> str:
        return "foreign"


class Broken(Foreign):
    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        raise LookupError("no such zone")


def nameless_zone() -> ZoneInfo:
    """Return Berlin's zone read from a file, and therefore without a name."""
    files = [Path(folder, "Europe/Berlin") for folder in zoneinfo.TZPATH]
    found = next((file for file in files if file.exists()), None)
    # BERLIN was found: where the system has no zones, they come from this package.
    with (found or resources.files("tzdata") / "zoneinfo/Europe/Berlin").open("rb") as lines:
        return ZoneInfo.from_file(lines)


def test_a_tzinfo_of_another_class_comes_back_as_its_offset() -> None:
    for moment in (
        datetime(2024, 1, 1, 12, tzinfo=Foreign(timedelta(hours=3))),
        datetime(2024, 1, 1, 12, tzinfo=Foreign(timedelta(hours=3)), fold=1),
        datetime(2024, 7, 1, 12, tzinfo=nameless_zone()),
    ):
        back = trip(moment)
        assert back == moment
        assert back.fold == moment.fold
        assert back.tzinfo == timezone(moment.utcoffset() or timedelta())
    assert trip(time(12, tzinfo=Foreign(timedelta(hours=3)))) == time(
        12, tzinfo=timezone(timedelta(hours=3))
    )


@pytest.mark.parametrize("value", [datetime(2024, 1, 1), time(12)], ids=repr)
@pytest.mark.parametrize(
    ("zone", "reason"),
    [(Foreign(None), "gives no offset; use a ZoneInfo"), (Broken(None), "no such zone")],
)
def test_a_tzinfo_that_gives_no_offset_is_refused(
    value: datetime | time, zone: tzinfo, reason: str
) -> None:
    assert reason in refusal(value.replace(tzinfo=zone))


def test_a_time_in_a_nameless_zone_is_refused() -> None:
    assert "gives no offset" in refusal(time(12, tzinfo=nameless_zone()))
