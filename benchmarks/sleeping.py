"""The sleeps of jobs, and the ideal time for all of them."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable

_SHORTEST, _LONGEST = 0.010, 0.100


def sleeps(count: int, seed: int) -> list[float]:
    """Return the seconds that each job sleeps: equal on every database; longer lists begin like shorter ones."""
    dice = random.Random(seed)
    return [dice.uniform(_SHORTEST, _LONGEST) for _ in range(count)]


def ideal(naps: Iterable[float], slots: int) -> float:
    """Return the time at which the last sleep ends if each begins, in order, as soon as a slot is free."""
    free = [0.0] * slots
    for seconds in naps:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)
