"""Prune receipts (`Relayed` rows) once no relay can still hold their jobs in memory.

A relay may write rows that it read up to `MAX_READ_AGE` seconds ago. A receipt is therefore deleted only
when its outbox row was seen to be gone longer ago than that; until then the receipt keeps a late relay
from creating a second job.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from uuid import UUID

from djjp.engine import Engine
from djjp.outbox import table
from djjp.outbox.relay import MAX_READ_AGE, Call
from djjp.outbox.stopwatch import Stopwatch

#: Seconds for which a receipt outlives its row in the outbox, at least.
KEEP_RECEIPTS = 4 * MAX_READ_AGE

_PAGE = 500


class ReceiptPruner:
    """Deletes receipts in two passes: the first notes which outbox rows are gone, the next deletes theirs."""

    def __init__(self, call: Call, aliases: Sequence[str]) -> None:
        self._call = call
        self._aliases = aliases
        self._gone: list[UUID] = []
        self._since_last_pass = Stopwatch()

    def prune(self) -> None:
        """After `KEEP_RECEIPTS` seconds, delete the receipts noted by the last pass and note new ones."""
        if self._since_last_pass.at_least() < KEEP_RECEIPTS:
            return
        gone, self._gone, self._since_last_pass = self._gone, [], Stopwatch()
        for start in range(0, len(gone), _PAGE):
            self._call(partial(_delete, gone[start : start + _PAGE]))
        seen = self._find_gone()
        # Only after all outboxes have answered, and timed from the last answer.
        self._gone, self._since_last_pass = seen, Stopwatch()

    def _find_gone(self) -> list[UUID]:
        """Return the ids of old receipts whose row is in no outbox any more."""
        gone: list[UUID] = []
        after: UUID | None = None
        before = time.time() - KEEP_RECEIPTS
        while page := self._call(partial(_receipts, before, after)):
            present = set[UUID]().union(*(table.existing(alias, page) for alias in self._aliases))
            gone += [id for id in page if id not in present]
            after = page[-1]
        return gone


def _delete(ids: Sequence[UUID], engine: Engine) -> None:
    engine.receipts.delete(ids)


def _receipts(before: float, after: UUID | None, engine: Engine) -> list[UUID]:
    return engine.receipts.relayed(before, after, _PAGE)
