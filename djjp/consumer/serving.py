"""Serving: which queues a consumer takes jobs from next, and how many from each.

Queues are named with their patterns (`report.*`), in an order or with weights, and some may be left out or
paused. Only where every queue is served does one claim take the first jobs of all; else each claim is told
its queues by name, so that a million jobs in a queue that is not served are never met.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple, TypeVar

T = TypeVar("T")

# So many names are as soon tried as it is found out which of them have something ready.
_FEW = 2


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
Served = tuple[Rank, list[str] | None]


def parse(names: Sequence[str]) -> list[Rank]:
    """The ranks that the values of `--queues` stand for.

    Raises:
        ValueError: it names none, or mixes an order with weights; the message says what would be right.
    """
    ranks: list[Rank] = []
    for given in names:
        name, colon, weight = given.rpartition(":")
        if not colon:
            ranks.append(Rank(given))
        elif name and weight.isascii() and weight.isdigit() and int(weight) > 0:
            ranks.append(Rank(name, int(weight)))
        else:
            raise ValueError(f"{given!r}: a weight is a whole number, 1 or more, as in mail:3")
    if not ranks:
        raise ValueError("name at least one queue, as in --queues mail,default")
    weighted = [rank for rank in ranks if rank.weight is not None]
    if weighted and len(weighted) < len(ranks):
        raise ValueError(
            "either all queues have a weight, as in mail:3,default:1, or none has, and then the first comes first"
        )
    return list({rank.pattern: rank for rank in reversed(ranks)}.values())[::-1]


class Serving:
    """The queues of one consumer, and whose turn it is.

    Args:
        ranks: what to serve; None for every queue.
        excluded: names and patterns of queues to leave out.
    """

    def __init__(self, ranks: Sequence[Rank] | None, excluded: Sequence[str] = ()) -> None:
        self.ranks = None if ranks is None else list(ranks)
        self.excluded = list(excluded)
        self.paused: frozenset[str] = frozenset()
        self._credit: dict[Rank, int] = {}

    @property
    def looks_for_names(self) -> bool:
        """Whether it has to be told which queues have ready jobs."""
        if self.ranks is None:
            return bool(self.excluded or self.paused)
        # A few names are as soon tried as found out.
        return len(self.ranks) > _FEW or not all(rank.is_name for rank in self.ranks)

    def names(self) -> list[str] | None:
        """The patterns that it serves, for people to read; None for all."""
        if self.ranks is None:
            return None
        return [
            rank.pattern if rank.weight is None else f"{rank.pattern}:{rank.weight}"
            for rank in self.ranks
        ]

    def served(self, ready: Sequence[str]) -> list[Served]:
        """Each rank with the queues to take from.

        Args:
            ready: the queues that have ready jobs, where `looks_for_names`.
        """
        if not self.looks_for_names:
            if self.ranks is None:
                return [(Rank("*"), None)]
            named = [(rank, [rank.pattern]) for rank in self.ranks if self._open(rank.pattern)]
            return [*named]
        left = [name for name in ready if self._open(name)]
        found: list[Served] = []
        for rank in self.ranks if self.ranks is not None else [Rank("*")]:
            theirs = [name for name in left if fnmatchcase(name, rank.pattern)]
            left = [name for name in left if name not in theirs]
            if theirs:
                found.append((rank, theirs))
        return found

    def take(
        self, room: int, served: Sequence[Served], claim: Callable[[list[str] | None, int], list[T]]
    ) -> list[T]:
        """Claim up to `room` jobs, one rank after the other.

        Args:
            served: as `served()` gives them.
            claim: takes up to so many jobs from these queues.
        """
        taken: list[T] = []
        empty: set[Rank] = set()
        if len(served) > 1 and served[0][0].weight is not None:
            dealt = self._dealt(room, [rank for rank, _ in served])
            for rank, queues in served:
                if share := dealt[rank]:
                    jobs = claim(queues, share)
                    taken += jobs
                    if len(jobs) < share:
                        empty.add(rank)
        # In order; and with weights, what others have left over.
        for rank, queues in served:
            if len(taken) < room and rank not in empty:
                taken += claim(queues, room - len(taken))
        return taken

    def _open(self, name: str) -> bool:
        return name not in self.paused and not any(fnmatchcase(name, x) for x in self.excluded)

    def _dealt(self, room: int, ranks: Sequence[Rank]) -> dict[Rank, int]:
        """So many places for each as is its share; who gets less than that is the first to get more."""
        weights = {rank: rank.weight or 1 for rank in ranks}
        total = sum(weights.values())
        rounds, rest = divmod(room, total)
        dealt = {rank: weight * rounds for rank, weight in weights.items()}
        for _ in range(rest):
            for rank, weight in weights.items():
                self._credit[rank] = self._credit.get(rank, 0) + weight
            best = max(ranks, key=lambda rank: self._credit[rank])
            self._credit[best] -= total
            dealt[best] += 1
        return dealt
