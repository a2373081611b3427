"""Queue selection: from which queues a consumer claims next, and how many jobs from each.

Queues are given by name or pattern (`report.*`), in an order or with weights, and some can be excluded or
paused. Only a consumer of every queue claims from all of them at once. Otherwise each claim gets its queues by
name, so that it never reads the million jobs of a queue that is not served.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeVar

from djjp.bounds import is_encodable
from djjp.served import EXCLUDED, matcher

T = TypeVar("T")

# Up to this number of names, a claim from each takes no longer than to read which have ready jobs.
_FEW_NAMES = 2
_MOST_WEIGHT = 1000
# The number of queues whose ranks are cached.
_MOST_NAMES = 4096


class Rank(NamedTuple):
    """Queues that are served together, by priority.

    Attributes:
        pattern: a name, or a pattern with `*`.
        weight: of its share; None where earlier ranks come first.
    """

    pattern: str
    weight: int | None = None

    @property
    def is_name(self) -> bool:
        return "*" not in self.pattern


#: A rank with the names of its queues to claim from; None for all queues.
Selection = tuple[Rank, list[str] | None]

_ALL = Rank("*")


def parse(names: Sequence[str]) -> list[Rank]:
    """Return the ranks that the values of `--queues` mean.

    Raises:
        ValueError: no queue is named, one is named with two weights, or only some have a weight. The
            message shows a right value.
    """
    ranks = [_rank(given) for given in dict.fromkeys(names)]
    if not ranks:
        raise ValueError("name at least one queue, as in mail,default")
    for pattern, count in Counter(rank.pattern for rank in ranks).items():
        if count > 1:
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
    if "\0" in name or not is_encodable(name):
        raise ValueError(f"{given!r}: no queue has NUL characters or lone surrogates in its name")
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
    """The queues that one consumer serves, and the share that it owes to each rank.

    A queue that is named belongs to the rank of its name, any other to the first rank whose pattern matches.

    Args:
        ranks: of the queues to serve; None for every queue.
        excluded: names and patterns of queues not to serve.
    """

    def __init__(self, ranks: Sequence[Rank] | None, excluded: Sequence[str] = ()) -> None:
        everything = ranks is None or [rank.pattern for rank in ranks] == ["*"]
        self.paused: frozenset[str] = frozenset()
        self._ranks = None if everything else ranks
        self._excluded = list(excluded)
        self._is_excluded = matcher(excluded)
        given = dict.fromkeys(self._ranks or [_ALL])
        self._number = {rank: number for number, rank in enumerate(given)}
        self._by_name = {rank.pattern: rank for rank in given if rank.is_name}
        self._patterns = [(matcher([rank.pattern]), rank) for rank in given if not rank.is_name]
        self._rank_of = lru_cache(_MOST_NAMES)(self._find_rank)
        self._credit: dict[Rank, float] = {}

    @property
    def needs_ready_names(self) -> bool:
        """Return whether `select()` needs the names of the queues with ready jobs."""
        if self._ranks is None:
            return bool(self._excluded or self.paused)
        # See `_FEW_NAMES`.
        return len(self._ranks) > _FEW_NAMES or not all(rank.is_name for rank in self._ranks)

    def names(self) -> list[str] | None:
        """Return the queues to serve, as the status shows them; None for all queues."""
        if self._ranks is None and not self._excluded:
            return None
        served = [
            rank.pattern if rank.weight is None else f"{rank.pattern}:{rank.weight}"
            for rank in self._ranks or [_ALL]
        ]
        return served + [f"{EXCLUDED}{pattern}" for pattern in self._excluded]

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

    def ranked(self, queues: Iterable[str]) -> list[list[str]]:
        """Return those of these queues that are served and not paused, rank after rank."""
        ranks: dict[int, list[str]] = {}
        for name in queues:
            if name not in self.paused and self._rank_of(name) is not None:
                ranks.setdefault(self.rank_number(name), []).append(name)
        return [names for _, names in sorted(ranks.items())]

    def rank_number(self, queue: str) -> int:
        """Return the number of a queue's rank: lower ones come first. Ranks with weights are all 0."""
        rank = self._rank_of(queue)
        if self._ranks is None or rank is None or rank.weight is not None:
            return 0
        return self._number[rank]

    def take(
        self,
        room: int,
        selections: Sequence[Selection],
        claim: Callable[[list[str] | None, int], list[T]],
    ) -> list[T]:
        """Claim up to `room` jobs; return them in the order in which they must start.

        Args:
            selections: as `select()` returns them.
            claim: claims from queues of these names, up to a number of jobs.
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
        """Claim by weights; the share of a rank without enough jobs goes to the others, by their weights."""
        active, counts = dict(selections), dict.fromkeys((rank for rank, _ in selections), 0)
        taken: list[tuple[float, T]] = []
        while active and len(taken) < room:
            for rank, share in self._shares(room - len(taken), list(active)).items():
                jobs = claim(active[rank], share) if share else []
                for job in jobs:
                    counts[rank] += 1
                    taken.append((counts[rank] / (rank.weight or 1), job))
                if len(jobs) < share:
                    del active[rank]
        # Interleaved by weight, because they start one after the other.
        taken.sort(key=lambda ordered: ordered[0])
        return [job for _, job in taken]

    def _shares(self, room: int, ranks: Sequence[Rank]) -> dict[Rank, int]:
        """Divide the room by weight. What rounding takes from a rank, it is owed in later claims."""
        weights = {rank: rank.weight or 1 for rank in ranks}
        total = sum(weights.values())
        owed = {r: self._credit.get(r, 0.0) + room * w / total for r, w in weights.items()}
        shares = dict.fromkeys(ranks, 0)

        def add(rank: Rank, count: int) -> None:
            shares[rank] += count
            owed[rank] -= count

        for rank in ranks:
            add(rank, max(0, int(owed[rank])))
        while (missing := room - sum(shares.values())) > 0:
            add(max(ranks, key=lambda rank: owed[rank]), 1)
        for _ in range(-missing):
            add(min((r for r in ranks if shares[r]), key=lambda rank: owed[rank]), -1)
        self._credit.update(owed)
        return shares

    def _find_rank(self, name: str) -> Rank | None:
        if self._is_excluded(name):
            return None
        named = self._by_name.get(name)
        return named or next((rank for matches, rank in self._patterns if matches(name)), None)
