"""The failure detector: which of the other consumers are dead.

A consumer holds a lock that the system takes from it when its process ends, however it ends. A free lock
means dead only when it stays free for a second in which the heartbeat does not change: a terminated
session frees the lock of a consumer that lives and will reconnect. A held lock means alive, also when a
job hogs the interpreter and no heartbeat comes, until `frozen_limit`. Where there is no lock, the heartbeat
alone decides.

Ages are measured on this process's own clock, from when it saw a heartbeat change: the clocks of two
machines need not agree. The clock advances only while this process runs: after a shared pause (VM suspend)
no consumer must conclude that all others missed their heartbeats.
"""

from __future__ import annotations

import time
from math import inf

from djjp.engine import Engine, Peer

#: Seconds for which a lock must stay free, and the heartbeat unchanged, before its consumer counts as dead.
LOCK_FREE_FOR = 1.0
#: Seconds that others get after this consumer lost its database: they may be about to reconnect too.
GRACE_AFTER_OUTAGE = 5.0
#: Seconds between two queries for running jobs whose consumer has no row at all.
ORPHANS_EVERY = 10.0
# The number of live neighbours that each consumer watches; the next ones are watched by others.
_NEIGHBOURS = 2


class FailureDetector:
    """Finds dead consumers.

    The consumers form a ring, ordered by their names. Each tries the locks of the next ones until it has met
    two that live. So each is watched by others, and a thousand consumers do not try a million locks.
    """

    def __init__(self, heartbeat_limit: float, frozen_limit: float | None) -> None:
        self._heartbeat_limit = heartbeat_limit
        self._frozen_limit = inf if frozen_limit is None else frozen_limit
        # Of each consumer the last heartbeat, and since when it is unchanged.
        self._seen: dict[str, tuple[float | None, float]] = {}
        self._free_since: dict[str, float] = {}
        self._now, self._read_at = 0.0, time.monotonic()
        self._not_before = 0.0
        self._orphans: list[Peer] = []
        self._orphans_at = 0.0

    def pause(self) -> None:
        """Declare no consumer dead for a while: this one was cut off from the database, as others may be."""
        self._not_before = self._clock() + GRACE_AFTER_OUTAGE
        self._free_since.clear()

    def find_dead(self, engine: Engine, name: str) -> list[Peer]:
        """Return the dead consumers, by all that the consumer `name` has seen so far."""
        now = self._clock()
        if now >= self._orphans_at:
            self._orphans_at = now + ORPHANS_EVERY
            self._orphans = engine.consumers.orphans()
        peers = [*engine.consumers.peers(), *self._orphans]
        self._observe(peers, now)
        ring = sorted(peers, key=lambda peer: (peer.name <= name, peer.name))
        found, alive = [], 0
        for peer in ring:
            if peer.name == name:
                continue
            unchanged_for = now - self._seen[peer.name][1]
            if not peer.locked:
                dead = unchanged_for >= self._heartbeat_limit
            elif alive < _NEIGHBOURS and not engine.consumers.is_locked(peer.name):
                free_for = now - self._free_since.setdefault(peer.name, now)
                dead = min(free_for, unchanged_for) >= self._free_limit(peer)
            else:
                alive += 1
                self._free_since.pop(peer.name, None)
                dead = unchanged_for >= self._frozen_limit
            if dead:
                found.append(peer)
        if now < self._not_before:
            return []
        self._orphans = [peer for peer in self._orphans if peer not in found]
        return found

    def due(self) -> float:
        """Return the seconds until the next free lock will have been free for long enough."""
        left = (since + LOCK_FREE_FOR - self._now for since in self._free_since.values())
        return min((seconds for seconds in left if seconds > 0), default=inf)

    def _clock(self) -> float:
        """Return the seconds for which this process has been running: a long gap counts for a short while only."""
        before, self._read_at = self._read_at, time.monotonic()
        self._now += min(self._read_at - before, LOCK_FREE_FOR)
        return self._now

    def _free_limit(self, peer: Peer) -> float:
        # A consumer that lives and has lost its row writes a new one with its next heartbeat.
        return LOCK_FREE_FOR if peer.heartbeat is not None else self._heartbeat_limit

    def _observe(self, peers: list[Peer], now: float) -> None:
        seen = {}
        for peer in peers:
            heartbeat, since = self._seen.get(peer.name, (None, now))
            seen[peer.name] = (peer.heartbeat, since if heartbeat == peer.heartbeat else now)
        self._seen = seen
        for name in set(self._free_since) - set(seen):
            del self._free_since[name]
