"""Clocks that stand still until a test moves them."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace

import pytest

from tests.support.processes import eventually


class Clock:
    """A monotonic clock.

    Attributes:
        now: the time that it shows.
        reads: how often it was read.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.reads = 0

    def monotonic(self) -> float:
        self.reads += 1
        return self.now

    def is_read(self, times: int) -> None:
        """Wait until it was read some more times."""
        goal = self.reads + times
        eventually(lambda: self.reads >= goal)


def stopped(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> Clock:
    """Give a module a clock of its own instead of the monotonic one, the only one that it may read."""
    clock = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock
