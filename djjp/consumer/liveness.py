"""Liveness: how a consumer shows that it lives, and how it finds those that have died.

A consumer holds a lock that the system takes from it when its process ends, however it ends. A lock
that is free means dead only when it stays free for a second in which the heartbeat does not move: a
terminated session frees the lock of a consumer that lives and will be back. A lock that is held means
alive, also when a job hogs the interpreter and no heartbeat comes, until `frozen_limit`. Where no lock
tells, the heartbeat alone does.

Ages are measured on this process's own clock, from when it saw a heartbeat change: no two machines'
clocks need agree. That clock stands still while this process does not look: consumers that were paused
together must not find, on waking, that all the others have been silent.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import time
from collections.abc import Sequence
from math import inf

from django.db import connections

from djjp import conf
from djjp.consumer import start_journal
from djjp.durations import to_datetime
from djjp.engine import Engine, Peer, current
from djjp.models import Consumer

logger = logging.getLogger("djjp.consumer")

#: Seconds for which a lock has to stay free, and the heartbeat still.
PATIENCE = 1.0
#: Seconds that the others get after this consumer was itself cut off: they may be on their way back too.
MERCY = 5.0
#: Seconds between two looks for running jobs whose consumer has no row at all.
ORPHANS_EVERY = 10.0
# How many live neighbours each consumer watches; the next ones are watched by others.
_NEIGHBOURS = 2


def new_name() -> str:
    """A consumer's name: `host:pid:random`."""
    return f"{socket.gethostname()[:60]}:{os.getpid()}:{secrets.token_hex(4)}"


class Presence:
    """One consumer's row, lock and heartbeat."""

    def __init__(
        self,
        engine: Engine,
        name: str,
        queues: Sequence[str] | None,
        limit: int,
        concurrency: str = "threads",
    ) -> None:
        self.name = name
        self._concurrency = concurrency
        self._engine = engine
        self._queues = queues
        self._limit = limit

    def begin(self) -> None:
        """Take the lock, then write the row: who sees the row can try the lock."""
        locked = self._engine.consumers.acquire_lock(self.name)
        if not locked:
            logger.info("no lock tells others that this consumer lives; its heartbeats do")
        now = to_datetime(time.time())
        host, pid, _ = self.name.rsplit(":", 2)
        self._engine.consumers.register(
            Consumer(
                name=self.name,
                host=host,
                pid=int(pid),
                queues=None if self._queues is None else json.dumps(list(self._queues)),
                concurrency=self._concurrency,
                concurrency_limit=self._limit,
                started_at=now,
                heartbeat_at=now,
                locked=locked,
            )
        )

    def beat(self) -> bool:
        """Say that this consumer lives; False when others have taken it for dead."""
        locked = self._engine.consumers.acquire_lock(self.name)
        return self._engine.consumers.heartbeat(self.name, time.time(), locked)

    def end(self) -> None:
        """Leave, with nothing left to do."""
        self._engine.consumers.deregister(self.name)
        self._engine.consumers.release_lock(self.name)


class Watch:
    """Tells which of the other consumers are dead.

    The consumers stand in a ring by their names. Each tries the locks of the next ones until it has met
    two that live; so each is watched by others, and a thousand consumers do not try a million locks.
    """

    def __init__(self, heartbeat_limit: float, frozen_limit: float | None) -> None:
        self._heartbeat_limit = heartbeat_limit
        self._frozen_limit = inf if frozen_limit is None else frozen_limit
        # Of each the heartbeat, and since when it stands.
        self._seen: dict[str, tuple[float | None, float]] = {}
        self._free_since: dict[str, float] = {}
        self._now, self._looked_at = 0.0, time.monotonic()
        self._not_before = 0.0
        self._orphans: list[Peer] = []
        self._orphans_at = 0.0

    def cut_off(self) -> None:
        """This consumer has just been away from the database, and so perhaps have the others."""
        self._not_before = self._clock() + MERCY
        self._free_since.clear()

    def dead(self, engine: Engine, name: str) -> list[Peer]:
        """The consumers that are dead, for all that `name` has seen so far."""
        now = self._clock()
        if now >= self._orphans_at:
            self._orphans_at = now + ORPHANS_EVERY
            self._orphans = engine.consumers.orphans()
        peers = [*engine.consumers.peers(), *self._orphans]
        self._follow(peers, now)
        ring = sorted(peers, key=lambda peer: (peer.name <= name, peer.name))
        found, alive = [], 0
        for peer in ring:
            if peer.name == name:
                continue
            still = now - self._seen[peer.name][1]
            if not peer.locked:
                gone = still >= self._heartbeat_limit
            elif alive < _NEIGHBOURS and not engine.consumers.is_locked(peer.name):
                free = now - self._free_since.setdefault(peer.name, now)
                gone = min(free, still) >= self._patience(peer)
            else:
                alive += 1
                self._free_since.pop(peer.name, None)
                gone = still >= self._frozen_limit
            if gone:
                found.append(peer)
        if now < self._not_before:
            return []
        self._orphans = [peer for peer in self._orphans if peer not in found]
        return found

    def patience_left(self) -> float:
        """Seconds until the next of the locks that are free will have been so for long enough."""
        left = (since + PATIENCE - self._now for since in self._free_since.values())
        return min((seconds for seconds in left if seconds > 0), default=inf)

    def _clock(self) -> float:
        """Seconds for which this process has been looking: a look counts for a short while only."""
        before, self._looked_at = self._looked_at, time.monotonic()
        self._now += min(self._looked_at - before, PATIENCE)
        return self._now

    def _patience(self, peer: Peer) -> float:
        # One that lives and has lost its row writes it anew with its next heartbeat.
        return PATIENCE if peer.heartbeat is not None else self._heartbeat_limit

    def _follow(self, peers: list[Peer], now: float) -> None:
        seen = {}
        for peer in peers:
            heartbeat, since = self._seen.get(peer.name, (None, now))
            seen[peer.name] = (peer.heartbeat, since if heartbeat == peer.heartbeat else now)
        self._seen = seen
        for name in set(self._free_since) - set(seen):
            del self._free_since[name]


def rescue(engine: Engine, peer: Peer) -> bool:
    """Take a dead consumer's jobs, unless it has shown since that it lives; whether there were any."""
    folder = engine.db.runtime_dir()
    start_journal.doubt(folder, peer.name)
    taken = engine.rescue.rescue_jobs(
        peer,
        time.time(),
        max_rescues=conf.current().max_rescues,
        begun=start_journal.begun(folder, peer.name),
    )
    if taken is None:
        return False
    jobs, failed = taken
    start_journal.clear(folder, peer.name)
    logger.warning("consumer %s is dead; %d of its jobs are rescued", peer.name, jobs - failed)
    if failed:
        logger.error("%d jobs of consumer %s have failed by its death", failed, peer.name)
    return jobs > failed


def rescue_process(pid: int) -> int:
    """Take the jobs of a process of this machine that is known to have ended; returns how many consumers it was.

    For a parent, which knows at once; it leaves no connection open.
    """
    engine = current()
    prefix = f"{socket.gethostname()[:60]}:{pid}:"
    try:
        peers = [peer for peer in engine.consumers.peers() if peer.name.startswith(prefix)]
        for peer in peers:
            rescue(engine, peer)
        return len(peers)
    finally:
        connections[engine.db.alias].close()
