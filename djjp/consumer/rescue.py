"""Rescue: a dead consumer's jobs run again, or fail where they must not run twice."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from typing import Any, TypedDict
from uuid import UUID

from django.db import connections

from djjp import conf, logs
from djjp.consumer import start_journal
from djjp.consumer.heartbeat import ConsumerName
from djjp.engine import ClaimKey, Engine, Peer, Refusal, current
from djjp.engine.incidents import Found
from djjp.engine.rescue import Rescued
from djjp.models import Job, State
from djjp.monitoring.detection import Announcer, at_once, report

logger = logging.getLogger("djjp.consumer")

# The largest number of rescues that a row can have.
_MOST = 2**31 - 1
# The number of a dead consumer's jobs among which the one that has killed it is searched.
_MOST_SUSPECTS = 200


class _Options(TypedDict):
    """How jobs are rescued: see `Rescue.rescue_jobs`."""

    max_rescues: int
    started: Collection[ClaimKey] | None


_NOTHING = Rescued(0, 0, 0)


def rescue(engine: Engine, peer: Peer, announcer: Announcer = at_once) -> Rescued:
    """Rescue the jobs of a dead consumer, unless it has sent a heartbeat since; its death is an incident."""
    folder = engine.db.runtime_dir()
    start_journal.suspect(folder, peer.name)
    held = [id for id, _ in engine.consumers.running_jobs(peer.name)]
    options = _Options(
        max_rescues=min(conf.current().max_rescues, _MOST),
        started=start_journal.started(folder, peer.name),
    )
    try:
        rescued = engine.rescue.rescue_jobs(peer, time.time(), **options)
    except Exception as error:
        if engine.db.classify(error) is not Refusal.CONTENT:
            raise
        rescued = _rescue_one_by_one(engine, peer, options)
    if rescued is None:
        return _NOTHING
    start_journal.clear(folder, peer.name)
    logger.warning("consumer %s is dead; %d of its jobs are rescued", peer.name, rescued.rescued)
    if rescued.failed:
        logger.error("%d jobs of consumer %s have failed by its death", rescued.failed, peer.name)
    if peer.heartbeat is not None:  # else only running jobs name it
        report(engine, [_lost(engine, peer.name, rescued, held)], announcer)
    return rescued


def _lost(engine: Engine, consumer: str, rescued: Rescued, held: Sequence[UUID]) -> Found:
    """Return the incident of the death of a consumer.

    Args:
        held: the jobs that it held.
    """
    figures = {"consumers": 1, "jobs": rescued.rescued, "failed": rescued.failed}
    facts = figures | {"name": consumer} | _suspect(engine, held)
    return Found("consumer_lost", ConsumerName(consumer).host, facts, sums=tuple(figures))


def _suspect(engine: Engine, held: Sequence[UUID]) -> dict[str, Any]:
    """Return the job that has run at most deaths of consumers, if it was the only one or has run at several."""
    rows = Job.objects.using(engine.db.alias).filter(pk__in=held[:_MOST_SUSPECTS])
    suspects = [
        ((rescues or 0) + (state == State.FAILED), str(id), str(name), state == State.FAILED)
        for id, name, state, rescues in rows.values_list("pk", "name", "state", "rescues")
    ]
    deaths, id, name, has_ended = max(suspects, default=(0, "", "", False))
    if deaths < 1 or (deaths == 1 and sum(each[0] > 0 for each in suspects) > 1):
        return {}
    return {"job": id, "job_name": name, "deaths": deaths, "ended": has_ended}


def _rescue_one_by_one(engine: Engine, peer: Peer, options: _Options) -> Rescued | None:
    """Rescue each job in a transaction of its own, because the row of one of them is refused."""
    if engine.rescue.rescue_jobs(peer, time.time(), **options, only=()) is None:
        return None
    total = _NOTHING
    for id, _ in engine.consumers.running_jobs(peer.name):
        try:
            rescued = engine.rescue.rescue_jobs(
                Peer(peer.name, None, locked=True), time.time(), **options, only=[id]
            )
        except Exception as error:
            if engine.db.classify(error) is not Refusal.CONTENT:
                raise
            text = "job %s of the dead consumer %s cannot be rescued: %s"
            extra = logs.of_id(id)
            logger.error(text, id, peer.name, error, extra=extra)  # noqa: TRY400  (its traceback leads through djjp only)
            continue
        total = Rescued(*map(sum, zip(total, rescued or _NOTHING, strict=True)))
    return total


def rescue_child(token: str) -> int:
    """Rescue the jobs of a child process that has ended, and return how many it held.

    Its supervisor calls this, because it learns of the end at once. No connection stays open.

    Args:
        token: of the child's consumer: host and pid can be those of a living consumer in another container.
    """
    engine = current()
    try:
        peers = [peer for peer in engine.consumers.peers() if peer.name.endswith(f":{token}")]
        return sum(rescue(engine, peer).jobs for peer in peers)
    finally:
        connections[engine.db.alias].close()
