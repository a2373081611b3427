"""Sums: figures of the ends of jobs, added up, and the texts from which they are read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from djjp.engine.totals import KINDS, PER_SECOND
from djjp.jsontext import loads

#: Bucket e of a histogram has the durations from 2^(e-1) s up to 2^e s; the first one also has the shorter
#: ones, and the last one the longer ones.
FIRST_BUCKET, LAST_BUCKET = -10, 20

# A duration of n bits, in units of 2^-20 s, is less than 2^(n - 20) s.
_BUCKETS = [str(min(max(bits - 20, FIRST_BUCKET), LAST_BUCKET)) for bits in range(128)]

# The sums of long texts by their digests. They are few numbers each.
_LONG, _MOST_KNOWN = 2_000, 5_000
_known: dict[bytes, dict[str, int]] = {}

_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(slots=True)
class Sums:
    """Figures that are added up. Histograms have the numbers of durations by bucket, as text.

    Attributes:
        counts: the numbers of ends by kind.
        waited, ran: the sums of the durations in the histograms, in seconds.
    """

    counts: dict[str, int] = field(default_factory=dict)
    waited: float = 0.0
    ran: float = 0.0
    waits: dict[str, int] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)

    def add(self, other: Sums) -> None:
        """Add other figures to these."""
        for mine, theirs in (
            (self.counts, other.counts),
            (self.waits, other.waits),
            (self.runs, other.runs),
        ):
            for key, number in theirs.items():
                mine[key] = mine.get(key, 0) + number
        self.waited += other.waited
        self.ran += other.ran

    def columns(self) -> tuple[Any, ...]:
        """Return the values of the columns of a total after its key."""
        counts = [self.counts.get(kind, 0) for kind in KINDS]
        return (*counts, self.waited, self.ran, _encode(self.waits), _encode(self.runs))


def of_columns(values: Iterable[Any]) -> Sums:
    """Return the figures of a total, or of several: their histograms are joined by commas then."""
    *counts, waited, ran, waits, runs = values
    numbers = {kind: int(count) for kind, count in zip(KINDS, counts, strict=True) if count}
    return Sums(numbers, float(waited or 0), float(ran or 0), _histogram(waits), _histogram(runs))


def _histogram(text: str) -> dict[str, int]:
    """Return the sum of some histograms. Those of past hours come again with each refresh of a page."""
    if len(text) < _LONG:
        return _summed(text)
    key = blake2b(text.encode(), digest_size=16).digest()
    found = _known.get(key)
    if found is None:
        found = _summed(text)
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[key] = found
    return found.copy()


def _summed(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in loads(f"[{text}]") or []:  # a row by hand can have anything
        for bucket, number in each.items() if isinstance(each, dict) else ():
            found[bucket] = found.get(bucket, 0) + number
    return found


class Entries:
    """Entries of the totals, collected by time, queue and name before their durations are counted."""

    def __init__(self) -> None:
        self._counts: dict[tuple[int, str, str], dict[str, int]] = {}
        self._times: dict[tuple[int, str, str], list[int]] = {}

    def add(self, starts_at: int, figures: str) -> None:
        """Add an entry; nothing of one that djjp has not written."""
        try:
            kinds = json.loads(figures).items()
        except (ValueError, AttributeError):
            return
        for kind, queues in kinds:
            for queue, names in queues.items():
                for name, value in names.items():
                    self._add((starts_at, queue, name), kind, value)

    def _add(self, key: tuple[int, str, str], kind: str, value: int | list[int]) -> None:
        if isinstance(value, int):
            number = value
        else:
            number = len(value) // 2
            times = self._times.get(key)
            if times is None:
                self._times[key] = value
            else:
                times += value
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = {}
        counts[kind] = counts.get(kind, 0) + number

    def sums(self) -> Mapping[tuple[int, str, str], Sums]:
        """Return the figures by time, queue and name."""
        found = {}
        for key, counts in self._counts.items():
            times = self._times.get(key, [])
            waited, waits = _counted(times[::2])
            ran, runs = _counted(times[1::2])
            found[key] = Sums(counts, waited, ran, waits, runs)
        return found


def _counted(times: list[Any]) -> tuple[float, dict[str, int]]:
    """Return the sum in seconds and the histogram of those durations that are known."""
    if None in times:
        times = [each for each in times if each is not None]
    if times and min(times) < 0:  # clocks that differ
        times = [max(0, each) for each in times]
    histogram: dict[str, int] = {}
    for bits, number in Counter(map(int.bit_length, times)).items():
        bucket = _BUCKETS[bits]
        histogram[bucket] = histogram.get(bucket, 0) + number
    return sum(times) / PER_SECOND, histogram
