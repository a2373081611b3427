"""The listener: what a waiting consumer needs of one, on any database."""

from __future__ import annotations

from typing import Protocol


class Listener(Protocol):
    """Reports to a waiting consumer that another process wrote to the queue.

    A lost wake-up is harmless: the consumer polls again after `interval()` in any case.
    """

    def fileno(self) -> int | None:
        """Return a descriptor that becomes readable on a wake-up, or None where only `woken()` reports one."""

    def woken(self) -> bool:
        """Return whether another process wrote since the last call."""

    def unheard(self) -> str | None:
        """Return why wake-ups do not arrive, so that the consumer polls; None while they do, or are not wanted."""

    def interval(self, quiet: float) -> float:
        """Return the seconds until the next call of `woken()` is due, after `quiet` seconds without work."""

    def close(self) -> None:
        """Have the connection receive no more wake-ups, so that it can be left idle."""
