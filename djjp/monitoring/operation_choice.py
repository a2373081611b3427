"""The choice of an operation's jobs: a filter, or a list of ids."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple, Self
from uuid import UUID

from djjp import engine
from djjp.engine import Engine
from djjp.ids import new_id
from djjp.monitoring.filters import Filter
from djjp.monitoring.jobs import walk
from djjp.outbox import pending


class Choice(NamedTuple):
    """The jobs of an operation: one of the two is given.

    Attributes:
        filter: without spans back, so that it takes the same jobs in each step.
        ids: each once, in ascending order.
    """

    filter: Filter | None
    ids: tuple[UUID, ...] | None

    @classmethod
    def of(cls, filter: Filter | None, ids: Iterable[UUID] | None) -> Self:
        """Return the choice of a caller.

        Raises:
            ValueError: it is not exactly one of the two, or an id is none.
        """
        if (filter is None) == (ids is None):
            raise ValueError("give either a filter or ids")
        if filter is not None:
            return cls(filter.fixed(time.time()), None)
        given = set(ids or ())
        for each in given:
            if not isinstance(each, UUID):
                raise ValueError(f"an id is {each!r}; it must be a UUID")  # noqa: TRY004  (as any other wrong value)
        return cls(None, tuple(sorted(given)))

    def last(self, engine: Engine) -> UUID:
        """Return the last id that it can take."""
        if self.ids is not None:
            return self.ids[-1] if self.ids else new_id()
        return engine.bulk.last_id() or new_id()

    def first(self, engine: Engine, most: int, time_limit: float) -> tuple[list[UUID], bool]:
        """Return the first of its jobs, and whether there are more, or can be more.

        Args:
            most: the number of jobs to return at most.
            time_limit: the seconds after which it searches no further.
        """
        if self.ids is not None:
            return [*self.ids[:most]], len(self.ids) > most
        wanted, last = self.filter or Filter(), self.last(engine)
        ids, reached = walk(wanted, None, last, most + 1, time_limit=time_limit)
        return ids[:most], reached is not None

    def cancel_in_outboxes(self) -> tuple[Self, int]:
        """Cancel those of its jobs that are in an outbox; return the choice without them, and their number."""
        ids = self.ids or ()
        if not ids or not pending.has_outboxes():
            return self, 0
        there = engine.run(lambda engine: engine.bulk.existing(ids))
        cancelled = pending.cancel_waiting([id for id in ids if id not in there])
        left = tuple(id for id in ids if id not in cancelled)
        return self._replace(ids=left), len(cancelled)
