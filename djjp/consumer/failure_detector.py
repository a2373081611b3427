"""The failure detector: finds the dead consumers among the others.

A consumer holds locks that the system takes from it when its process ends, however it ends. They say:

* The operating system has freed the lock of its process: it has ended.
* The server has freed the lock of its session. A consumer that lives and will reconnect loses that lock too, for
  example in an outage of the database. If this consumer has seen it alive since its own start and its own last
  outage, it is dead: an outage would have hit both. Otherwise it gets the time that a reconnect can take.
* No lock can be seen: the heartbeat alone decides, after `heartbeat_limit`.
* A held lock means alive, also when a job hogs the interpreter and no heartbeat comes, until `frozen_limit`.

A free lock must stay free for a second in which the heartbeat does not change. Ages are measured on this process's
own clock, from when it saw a heartbeat change: the clocks of two machines need not agree. The clock advances only
while this process runs: after a shared pause (VM suspend) no consumer must conclude that all others missed
their heartbeats.
"""

from __future__ import annotations

import time
from math import inf

from djjp.engine import Engine, Liveness, Peer

#: Seconds for which a lock must stay free, and the heartbeat unchanged, before its consumer counts as dead.
LOCK_FREE_FOR = 1.0
#: Seconds between two queries for running jobs whose consumer has no row at all.
ORPHANS_EVERY = 10.0
#: Seconds after its last heartbeat for which the first consumer still leads.
LEADS_FOR = 15.0
# The number of live neighbours that each consumer watches; other consumers watch the rest.
_NEIGHBOURS = 2


class FailureDetector:
    """Finds dead consumers.

    The consumers form a ring, ordered by their names. Each tests the locks of the next ones until it has found
    two live ones. So others watch each consumer, and a thousand consumers do not test a million locks.

    Args:
        reconnect: seconds within which a living consumer is back after an outage.
    """

    def __init__(
        self, heartbeat_limit: float, frozen_limit: float | None, *, reconnect: float
    ) -> None:
        self._grace = reconnect + LOCK_FREE_FOR
        self._heartbeat_limit = heartbeat_limit
        self._frozen_limit = inf if frozen_limit is None else frozen_limit
        # By consumer: the last heartbeat, and the time since which it is unchanged.
        self._seen: dict[str, tuple[float | None, float]] = {}
        #: Whether the row of this consumer had a request at the last search, which reads all rows.
        self.is_requested = False
        self._in_doubt: list[str] = []
        # By consumer that shows no lock: since when.
        self._in_doubt_since: dict[str, float] = {}
        self._seen_alive: set[str] = set()  # since this consumer's start and its last outage
        self._now, self._read_at = 0.0, time.monotonic()
        self._not_before = 0.0
        self._orphans: list[Peer] = []
        self._orphans_at = 0.0

    def pause(self) -> None:
        """Give the other consumers the time to reconnect: an outage can have hit them too."""
        self._not_before = self._clock() + self._grace
        self._in_doubt_since.clear()
        self._seen_alive.clear()

    def find_dead(self, engine: Engine, name: str) -> list[Peer]:
        """Return the dead consumers, by all that the consumer `name` has seen so far."""
        now = self._clock()
        if now >= self._orphans_at:
            self._orphans_at = now + ORPHANS_EVERY
            self._orphans = engine.consumers.consumers_without_row()
        peers = [*engine.consumers.peers(), *self._orphans]
        self._observe(peers, now)
        ring = sorted(peers, key=lambda peer: (peer.name <= name, peer.name))
        found, alive = [], 0
        self._in_doubt, self.is_requested = [], False
        for peer in ring:
            if peer.name == name:
                self.is_requested = peer.requested
                continue
            if peer.locked and alive == _NEIGHBOURS:  # others test its lock
                dead = self._is_frozen(peer, now)
            else:
                liveness = engine.consumers.liveness(peer)
                alive += liveness is Liveness.LIVES
                dead = self._is_dead(peer, liveness, now)
            if dead:
                found.append(peer)
        self._orphans = [peer for peer in self._orphans if peer not in found]
        return found

    def _is_dead(self, peer: Peer, liveness: Liveness, now: float) -> bool:
        if liveness is Liveness.LIVES:
            self._seen_alive.add(peer.name)
            self._in_doubt_since.pop(peer.name, None)
            return self._is_frozen(peer, now)
        limit = self._heartbeat_limit if liveness is Liveness.UNKNOWN else LOCK_FREE_FOR
        if peer.heartbeat is None and liveness is Liveness.CUT_OFF:
            # A consumer that lives and has lost its row writes a new one with its next heartbeat.
            limit = self._heartbeat_limit
        if liveness is not Liveness.UNKNOWN or peer.name not in self._seen_alive:
            self._in_doubt.append(peer.name)
        may_reconnect = liveness is not Liveness.ENDED and peer.name not in self._seen_alive
        grace = self._grace if may_reconnect else min(LOCK_FREE_FOR, limit)
        in_doubt_for = now - self._in_doubt_since.setdefault(peer.name, now)
        return self._unchanged_for(peer, now) >= limit and in_doubt_for >= grace

    def _is_frozen(self, peer: Peer, now: float) -> bool:
        return now >= self._not_before and self._unchanged_for(peer, now) >= self._frozen_limit

    def _unchanged_for(self, peer: Peer, now: float) -> float:
        return now - self._seen[peer.name][1]

    def leads(self, name: str) -> bool:
        """Return whether no consumer before this one, in the order of names, has sent heartbeats lately."""
        return not any(
            other < name and heartbeat is not None and self._now - since < LEADS_FOR
            for other, (heartbeat, since) in self._seen.items()
        )

    def in_doubt(self) -> list[str]:
        """Return the consumers that the last search did not see alive: they may be found dead soon."""
        return self._in_doubt

    def due(self) -> float:
        """Return the seconds until the next free lock will have been free for long enough."""
        left = (since + LOCK_FREE_FOR - self._now for since in self._in_doubt_since.values())
        return min((seconds for seconds in left if seconds > 0), default=inf)

    def _clock(self) -> float:
        """Return the seconds for which this process has been running: a long gap counts for a short while only."""
        before, self._read_at = self._read_at, time.monotonic()
        self._now += min(self._read_at - before, LOCK_FREE_FOR)
        return self._now

    def _observe(self, peers: list[Peer], now: float) -> None:
        seen = {}
        for peer in peers:
            heartbeat, since = self._seen.get(peer.name, (peer.heartbeat, now))
            if heartbeat != peer.heartbeat:
                since = now
                self._seen_alive.add(peer.name)
            seen[peer.name] = (peer.heartbeat, since)
        self._seen = seen
        self._seen_alive &= seen.keys()
        for name in self._in_doubt_since.keys() - seen.keys():
            del self._in_doubt_since[name]
