"""Queue selection: from which queues a consumer claims next, and how many jobs from each.

Queues are named with their patterns (`report.*`), in an order or with weights, and some may be left out or
paused. Only where every queue is served does one claim take the first jobs of all; else each claim is told
its queues by name, so that a million jobs in a queue that is not served are never met.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeVar

T = TypeVar("T")

# Up to this number of names it takes no longer to claim from each than to read which have ready jobs.
_FEW_NAMES = 2
_MOST_WEIGHT = 1000
# The number of queues whose ranks are cached.
_MOST_NAMES = 4096


class Rank(NamedTuple):
    """Queues that are served together, by priority.

    Attributes:
        pattern: a name, or a pattern with `*`.
        weight: how large its share is; None where what stands first comes first.
    """

    pattern: str
    weight: int | None = None

    @property
    def is_name(self) -> bool:
        return "*" not in self.pattern


#: A rank with the queues to take from, by name; None for all.
Selection = tuple[Rank, list[str] | None]

_ALL = Rank("*")


def parse(names: Sequence[str]) -> list[Rank]:
    """Return the ranks that the values of `--queues` stand for.

    Raises:
        ValueError: it names none, one twice, or mixes an order with weights; the message says what would
            be right.
    """
    ranks = [_rank(given) for given in dict.fromkeys(names)]
    if not ranks:
        raise ValueError("name at least one queue, as in mail,default")
    patterns = [rank.pattern for rank in ranks]
    for pattern in patterns:
        if patterns.count(pattern) > 1:
            raise ValueError(f"{pattern!r} is there with two weights; give it one")
    weighted = [rank for rank in ranks if rank.weight is not None]
    if weighted and len(weighted) < len(ranks):
        raise ValueError(
            "either all queues have a weight, as in mail:3,default:1, or none has, and then the first comes first"
        )
    return ranks


def _rank(given: str) -> Rank:
    name, colon, weight = given.rpartition(":")
    if not colon:
        name = given
    if not name:
        raise ValueError(f"{given!r}: the name of the queue is missing, as in mail:3")
    if not colon:
        return Rank(name)
    if not (weight.isascii() and weight.isdigit() and 0 < len(weight.lstrip("0")) < 5):
        weight = "0"
    if not 1 <= int(weight) <= _MOST_WEIGHT:
        raise ValueError(
            f"{given!r}: a weight is a whole number from 1 to {_MOST_WEIGHT}, as in mail:3"
        )
    return Rank(name, int(weight))


class QueueSelector:
    """The queues that one consumer serves, and the share of each that is still to be claimed.

    A queue that is named belongs to that rank, any other to the first whose pattern it fits.

    Args:
        ranks: what to serve; None for every queue.
        excluded: names and patterns of queues to leave out.
    """

    def __init__(self, ranks: Sequence[Rank] | None, excluded: Sequence[str] = ()) -> None:
        everything = ranks is None or [rank.pattern for rank in ranks] == ["*"]
        self.paused: frozenset[str] = frozenset()
        self._ranks = None if everything else ranks
        self._excluded = list(excluded)
        self._is_excluded = _matcher(excluded)
        # Names come before patterns.
        by_name = sorted(self._ranks or [_ALL], key=lambda rank: not rank.is_name)
        self._tests = [(_matcher([rank.pattern]), rank) for rank in by_name]
        self._rank_of = lru_cache(_MOST_NAMES)(self._find_rank)
        self._credit: dict[Rank, float] = {}

    @property
    def needs_ready_names(self) -> bool:
        """Whether `select()` needs the names of the queues with ready jobs."""
        if self._ranks is None:
            return bool(self._excluded or self.paused)
        # See `_FEW_NAMES`.
        return len(self._ranks) > _FEW_NAMES or not all(rank.is_name for rank in self._ranks)

    def names(self) -> list[str] | None:
        """Return the queues to serve, for people to read; None for all queues."""
        if self._ranks is None and not self._excluded:
            return None
        served = [
            rank.pattern if rank.weight is None else f"{rank.pattern}:{rank.weight}"
            for rank in self._ranks or [_ALL]
        ]
        return served + [f"not {pattern}" for pattern in self._excluded]

    def select(self, ready: Iterable[str]) -> list[Selection]:
        """Return each rank with the queues to claim from.

        Args:
            ready: the queues that have ready jobs, where `needs_ready_names`.
        """
        if not self.needs_ready_names:
            if self._ranks is None:
                return [(_ALL, None)]
            ready = [rank.pattern for rank in self._ranks]
        found: dict[Rank, list[str]] = {rank: [] for rank in self._ranks or [_ALL]}
        for name in ready:
            rank = self._rank_of(name)
            if rank is not None and name not in self.paused:
                found[rank].append(name)
        return [(rank, names) for rank, names in found.items() if names]

    def take(
        self,
        room: int,
        selections: Sequence[Selection],
        claim: Callable[[list[str] | None, int], list[T]],
    ) -> list[T]:
        """Claim up to `room` jobs; returns them in the order in which they are to start.

        Args:
            selections: as `select()` gives them.
            claim: takes up to so many jobs from these queues.
        """
        if len(selections) > 1 and selections[0][0].weight is not None:
            return self._take_shares(room, selections, claim)
        taken: list[T] = []
        for _, queues in selections:
            if len(taken) < room:
                taken += claim(queues, room - len(taken))
        return taken

    def _take_shares(
        self,
        room: int,
        selections: Sequence[Selection],
        claim: Callable[[list[str] | None, int], list[T]],
    ) -> list[T]:
        """By weights; what one has no jobs for goes to the others, in their proportion."""
        left, counts = dict(selections), dict.fromkeys((rank for rank, _ in selections), 0)
        taken: list[tuple[float, T]] = []
        while left and len(taken) < room:
            for rank, share in self._deal(room - len(taken), list(left)).items():
                jobs = claim(left[rank], share) if share else []
                for job in jobs:
                    counts[rank] += 1
                    taken.append((counts[rank] / (rank.weight or 1), job))
                if len(jobs) < share:
                    del left[rank]
        # Mixed as the weights say, for they start one after the other.
        taken.sort(key=lambda placed: placed[0])
        return [job for _, job in taken]

    def _deal(self, room: int, ranks: Sequence[Rank]) -> dict[Rank, int]:
        """So many places for each as is its share; who gets less than that is the first to get more."""
        weights = {rank: rank.weight or 1 for rank in ranks}
        total = sum(weights.values())
        owed = {r: self._credit.get(r, 0.0) + room * w / total for r, w in weights.items()}
        dealt = dict.fromkeys(ranks, 0)

        def deal(rank: Rank, places: int) -> None:
            dealt[rank] += places
            owed[rank] -= places

        for rank in ranks:
            deal(rank, max(0, int(owed[rank])))
        while (missing := room - sum(dealt.values())) > 0:
            deal(max(ranks, key=lambda rank: owed[rank]), 1)
        for _ in range(-missing):
            deal(min((r for r in ranks if dealt[r]), key=lambda rank: owed[rank]), -1)
        self._credit.update(owed)
        return dealt

    def _find_rank(self, name: str) -> Rank | None:
        if self._is_excluded(name):
            return None
        return next((rank for fits, rank in self._tests if fits(name)), None)


def _matcher(patterns: Iterable[str]) -> Callable[[str], object]:
    """Whether a name fits one of these; `*` stands for any text, and nothing else for other than itself."""
    each = (".*".join(map(re.escape, pattern.split("*"))) for pattern in patterns)
    return re.compile("|".join(each), re.DOTALL).fullmatch
