"""Releases: the figures of a job name before the last release, and since."""

from __future__ import annotations

import time
from typing import NamedTuple

from djjp.engine.tiles import DAY
from djjp.monitoring.totals import Figures, totals
from djjp.monitoring.trends import Appearance, appearances

#: The longest time before and after a release that is compared, in seconds.
LONGEST = 7.0 * DAY


class Comparison(NamedTuple):
    """The figures of a job name in two times: before the last release, and since it appeared, or lately.

    Attributes:
        seconds: the length of each.
    """

    release: Appearance
    before: Figures
    after: Figures
    seconds: float


def compared(name: str) -> Comparison | None:
    """Return the figures of a name before and after the last release; None if no release has appeared.

    The minute in which it appeared is in neither.
    """
    found = appearances()
    if not found:
        return None
    release, now = found[-1], time.time()
    minute = int(release.at // 60) * 60
    seconds = min(max(now - release.at, 60.0), LONGEST)
    [before] = totals(minute - seconds, minute - 1, name=name)
    # Of an old release the last time, which shows how it does now.
    [after] = totals(max(minute + 60, now - seconds), name=name)
    return Comparison(release, before, after, seconds)
