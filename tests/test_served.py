"""The lists of queues of consumers: what they match, who serves a queue, and what that costs."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from djjp.consumer.serving import QueueSelector, parse
from djjp.served import Servers, matcher, named, serves
from tests.support.steps import steps

pytestmark = pytest.mark.one_pair

#: Lists as rows have them, and those of rows by hand.
LISTS = [
    *(None, [], ["mail"], ["mail:3", "report.*:1"], ["*"], ["*", "not mail", "not r*"]),
    *(["mail", "mail"], ["not mail"], ["mail", "not mail"], ["mail", "m*"], ["a*b*c", "**", "x"]),
    *([""], ["*l"], ["a:b:1"], ["[m]ail", "?"], ["é*"]),
]
NAMES = [
    "mail",
    "mails",
    "report.daily",
    "r",
    "abc",
    "a-b-b-c-c",
    "a:b",
    "m",
    "[m]ail",
    "?",
    "é\n",
    "lost",
]


def matches_by_definition(pattern: str, name: str) -> bool:
    if "*" not in pattern:
        return pattern == name
    first, _, rest = pattern.partition("*")
    tail = name.removeprefix(first)
    return name.startswith(first) and any(
        matches_by_definition(rest, tail[at:]) for at in range(len(tail) + 1)
    )


def test_a_star_matches_any_text_and_any_other_character_itself() -> None:
    random = Random(1)
    for _ in range(3_000):
        patterns = ["".join(random.choices("ab.*", k=random.randrange(6))) for _ in range(2)]
        name = "".join(random.choices("ab.\n", k=random.randrange(8)))
        wanted = any(matches_by_definition(each, name) for each in patterns)
        assert matcher(patterns)(name) is wanted, (patterns, name)
    assert not matcher([])("")


def test_the_stars_of_a_pattern_do_not_multiply_the_time_of_a_test() -> None:
    """By trying all places of 40 parts the test would not end."""
    assert not matcher(["*a" * 40 + "*b"])("a" * 100)
    assert matcher(["*a" * 40 + "*b"])("a" * 99 + "b")


def test_those_who_serve_a_queue_are_found_in_their_order_by_the_list_of_each() -> None:
    given = [(queues, number) for number, queues in enumerate([*LISTS, *reversed(LISTS)])]
    servers = Servers(given)
    for name in NAMES:
        wanted = [number for queues, number in given if serves(queues, name)]
        assert servers.of(name) == wanted
        assert servers.any(name) is bool(wanted)
    assert Servers([]).of("mail") == []


def test_the_queues_that_a_list_names_are_without_weights_and_patterns() -> None:
    assert named(["mail:3", "report.*:1", "a:b:1", "bulk", "not old"]) == ["mail", "a:b", "bulk"]


def compilations(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> int:
    """Return how often a function compiles an expression."""
    count, real = 0, re.compile

    def counted(*args: Any) -> Any:
        nonlocal count
        count += 1
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(re, "compile", counted)
        call()
    return count


def test_an_expression_is_compiled_once_for_each_list_with_patterns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lists = [[f"tenant-{number}-*", "mail"] for number in range(60)]

    def search() -> None:
        servers = Servers((queues, 1) for queues in [*lists, *lists])
        for number in range(100):
            servers.of(f"tenant-{number}-x")

    assert compilations(monkeypatch, search) == len(lists)


def test_the_search_for_servers_grows_with_queues_and_consumers_and_not_with_their_product() -> (
    None
):
    def search(count: int) -> None:
        servers = Servers(([f"q{n}", f"r{n}:2", "not x"], n) for n in range(count))
        assert all(servers.of(f"q{n}") == [n] and servers.any(f"r{n}") for n in range(count))

    assert steps(lambda: search(200)) < 2.5 * steps(lambda: search(100))


def test_a_consumer_of_many_names_finds_each_without_a_comparison_with_the_others() -> None:
    def search(count: int) -> None:
        names = [f"q{number}" for number in range(count)]
        selector = QueueSelector(parse(names))
        assert sum(len(queues) for queues in selector.ranked(names)) == count

    assert steps(lambda: search(200)) < 2.5 * steps(lambda: search(100))
