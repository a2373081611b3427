"""Rescue: a dead consumer's jobs run again, or fail where they must not run twice."""

from __future__ import annotations

import logging
import time

from django.db import connections

from djjp import conf
from djjp.consumer import start_journal
from djjp.consumer.heartbeat import ConsumerName
from djjp.engine import Engine, Peer, current

logger = logging.getLogger("djjp.consumer")


def rescue(engine: Engine, peer: Peer) -> bool:
    """Rescue the jobs of a dead consumer, unless it has shown since that it lives.

    Returns:
        Whether jobs were made ready.
    """
    folder = engine.db.runtime_dir()
    start_journal.suspect(folder, peer.name)
    taken = engine.rescue.rescue_jobs(
        peer,
        time.time(),
        max_rescues=conf.current().max_rescues,
        begun=start_journal.started(folder, peer.name),
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
    """Rescue the jobs of a process of this machine that has ended, for its parent, which knows at once.

    No connection is left open.

    Returns:
        The number of consumers that the process had.
    """
    engine, prefix = current(), ConsumerName.prefix(pid)
    try:
        peers = [peer for peer in engine.consumers.peers() if peer.name.startswith(prefix)]
        for peer in peers:
            rescue(engine, peer)
        return len(peers)
    finally:
        connections[engine.db.alias].close()
