"""How long jobs sleep that only sleep, and the least time in which all of them can."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable

_SHORTEST, _LONGEST = 0.010, 0.100


def sleeps(count: int, seed: int) -> list[float]:
    """How long each job sleeps: the same for every database, and a longer row only goes on."""
    dice = random.Random(seed)
    return [dice.uniform(_SHORTEST, _LONGEST) for _ in range(count)]


def ideal(naps: Iterable[float], slots: int) -> float:
    """When the last nap ends if each begins, in order, the moment that a slot is free."""
    free = [0.0] * slots
    for seconds in naps:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)
