"""Forgets `Relayed` rows once no relay can have their jobs in view any more.

A relay may write what it read `FRESH` seconds ago. So a `Relayed` row goes only when its outbox row was
seen to be gone longer ago than that; until then it stands between a late relay and a second job.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from uuid import UUID

from djjp.outbox import table
from djjp.outbox.relay import FRESH, Call, Watch

#: Seconds for which a `Relayed` row outlives its row in the outbox, at least.
KEEP = 4 * FRESH

_PAGE = 500


class Forgetting:
    """Keeps in mind which rows were seen to be gone, from one pass to the next."""

    def __init__(self, call: Call, aliases: Sequence[str]) -> None:
        self._call = call
        self._aliases = aliases
        self._gone: list[UUID] = []
        self._watch = Watch()

    def pass_by(self) -> None:
        """Once `KEEP` has passed: forget what was gone the last time, and see what is gone now."""
        if self._watch.at_least() < KEEP:
            return
        gone, self._gone, self._watch = self._gone, [], Watch()
        for start in range(0, len(gone), _PAGE):
            some = gone[start : start + _PAGE]
            self._call(lambda queue, some=some: queue.forget_relayed(some))  # type: ignore[misc]  # the default binds this chunk
        seen = self._seen_gone()
        # Only when all outboxes have answered, and measured from the last answer.
        self._gone, self._watch = seen, Watch()

    def _seen_gone(self) -> list[UUID]:
        gone: list[UUID] = []
        after: UUID | None = None
        before = time.time() - KEEP
        while page := self._call(lambda queue: queue.receipts.relayed(before, after, _PAGE)):  # noqa: B023  (called at once)
            there = set[UUID]().union(*(table.there(alias, page) for alias in self._aliases))
            gone += [id for id in page if id not in there]
            after = page[-1]
        return gone
