"""The queues that consumers serve, as the rows of consumers list them: names, patterns, weights and exclusions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

#: The beginning of a pattern of queues that a consumer does not serve, in the list of its queues.
EXCLUDED = "not "
_WEIGHT = re.compile(r":\d{1,4}\Z")


def matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Return a test for names that match a pattern: `*` matches any text, any other character itself."""
    given = frozenset(patterns)
    expressions = [_expression(each) for each in sorted(given) if "*" in each]
    if not expressions:
        return given.__contains__
    matches = re.compile("|".join(expressions), re.DOTALL).fullmatch
    return lambda name: name in given or matches(name) is not None


def _expression(pattern: str) -> str:
    first, *middle, last = map(re.escape, pattern.split("*"))
    # A part is taken where it comes first, and never tried again: else each star multiplies the time of a test.
    return "".join([first, *(f"(?>.*?{each})" for each in middle), ".*", last])


def serves(queues: Iterable[str] | None, name: str) -> bool:
    """Return whether a consumer serves a queue. For many queues or consumers, `Servers` reads each list once.

    Args:
        queues: the queues of the consumer as its row has them; None for all.
    """
    return _test(*_split(["*"] if queues is None else queues))(name)


def named(queues: Iterable[str]) -> list[str]:
    """Return the queues that the list of a consumer names: what it serves, without weights and patterns.

    Args:
        queues: the queues of the consumer as its row has them.
    """
    return [each for each in _split(queues)[0] if "*" not in each]


class Servers(Generic[T]):
    """Those who serve a queue. Each list is read once, if many have it, and found by the names that it has.

    Args:
        lists: who is returned, each with the queues of a consumer as its row has them; None for all.
    """

    def __init__(self, lists: Iterable[tuple[Iterable[str] | None, T]]) -> None:
        by_list: dict[tuple[str, ...], list[tuple[int, T]]] = defaultdict(list)
        for place, (queues, each) in enumerate(lists):
            by_list[("*",) if queues is None else tuple(queues)].append((place, each))
        self._by_name: dict[str, list[_Group[T]]] = defaultdict(list)
        self._with_patterns: list[_Group[T]] = []
        for queues, members in by_list.items():
            served, excluded = _split(queues)
            group = _Group(_test(served, excluded), members)
            if any("*" in each for each in served):
                self._with_patterns.append(group)
            else:
                for name in set(served):
                    self._by_name[name].append(group)

    def of(self, queue: str) -> list[T]:
        """Return those who serve a queue, in the order in which they were given."""
        found = [member for group in self._serving(queue) for member in group.members]
        return [each for _, each in sorted(found, key=itemgetter(0))]

    def any(self, queue: str) -> bool:
        """Return whether anyone serves a queue."""
        return next(self._serving(queue), None) is not None

    def _serving(self, queue: str) -> Iterator[_Group[T]]:
        for groups in (self._by_name.get(queue, ()), self._with_patterns):
            yield from (group for group in groups if group.serves(queue))


class _Group(NamedTuple, Generic[T]):
    """Those who have the same list of queues, each with its place among all."""

    serves: Callable[[str], bool]
    members: list[tuple[int, T]]


def _split(queues: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the names and patterns of a list that are served, without weights, and those that are excluded."""
    served, excluded = [], []
    for each in queues:
        if each.startswith(EXCLUDED):
            excluded.append(each.removeprefix(EXCLUDED))
        else:
            served.append(_WEIGHT.sub("", each))
    return served, excluded


def _test(served: Sequence[str], excluded: Sequence[str]) -> Callable[[str], bool]:
    is_served, is_excluded = matcher(served), matcher(excluded)
    return lambda name: is_served(name) and not is_excluded(name)
