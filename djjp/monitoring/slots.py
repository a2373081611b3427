"""Slots: the queues whose jobs wait because jobs that hang hold all slots of their consumers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from typing import Any, Protocol

from djjp.engine import Engine
from djjp.engine.holding import Holder
from djjp.served import Servers

#: The job names that a sentence has.
MOST_NAMES = 3


class Server(Protocol):
    """A consumer, as `djjp.monitoring.conditions` reads it."""

    @property
    def name(self) -> str: ...
    @property
    def slots(self) -> int: ...
    @property
    def is_quiet(self) -> bool: ...
    @property
    def queues(self) -> list[str] | None: ...


def held_slots(
    engine: Engine, queues: Collection[str], consumers: Sequence[Server], limit: float, now: float
) -> dict[str, dict[str, Any]]:
    """Return, by queue, the jobs that hold all slots of its consumers, each for longer than a limit in seconds.

    A queue one of whose slots has become free since then is left out: another consumer helps it.
    """
    claiming = Servers((each.queues, each) for each in consumers if not each.is_quiet)
    able = {queue: claiming.of(queue) for queue in queues}
    if not any(able.values()):
        return {}
    old: dict[str, list[Holder]] = defaultdict(list)
    for holder in engine.holding.old(now - limit):
        old[holder.consumer].append(holder)
    found = {}
    for queue, servers in able.items():
        if servers and all(0 < each.slots <= len(old[each.name]) for each in servers):
            holders = [holder for each in servers for holder in old[each.name][: each.slots]]
            found[queue] = _facts(holders, len(servers), now)
    return found


def _facts(holders: Sequence[Holder], consumers: int, now: float) -> dict[str, Any]:
    # A cancelled job that runs on leaves only the stop of its consumer.
    oldest = min(holders, key=lambda each: (each.is_cancelled, each.since))
    names = Counter(each.name for each in holders).most_common()
    by = ", ".join(f"{count:,} × {name!r}" for name, count in names[:MOST_NAMES])
    return {
        "slots": len(holders),
        "consumers": consumers,
        "by": by
        if len(names) <= MOST_NAMES
        else f"{by} and {len(names) - MOST_NAMES:,} more names",
        "job": str(oldest.id),
        "name": oldest.name,
        "consumer": oldest.consumer,
        "held": round(now - oldest.since, 1),
        "cancelled": oldest.is_cancelled,
    }
