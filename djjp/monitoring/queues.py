"""The queues that are known: a queue exists by being named."""

from __future__ import annotations

import time

from djjp import engine
from djjp.engine import Engine
from djjp.jobs import registry
from djjp.jsontext import texts
from djjp.models import Consumer, Span, Total
from djjp.served import named

#: Seconds for which a queue is known by the samples of its depth.
SAMPLED = 360.0


def known_queues(most: int | None = None) -> set[str]:
    """Return the names of the queues that a job, a registered function, a pause or a consumer names.

    Args:
        most: of very many queues that have ready jobs, only this number is needed: the first in order.
    """

    def with_jobs(engine: Engine) -> set[str]:
        return {*engine.queues.with_ready(most), *engine.queues.with_suspects(most)}

    return named_queues() | engine.run(with_jobs) - {""}


def named_queues() -> set[str]:
    """Return the names of the queues that anything but a ready job names."""
    declared = {registry.get(name).options.queue for name in registry.names()}
    return declared | engine.run(_named)


def _named(engine: Engine) -> set[str]:
    alias = engine.db.alias
    served = Consumer.objects.using(alias).values_list("queues", flat=True)
    ended = Total.objects.using(alias).filter(span=Span.EVER).values_list("queue", flat=True)
    return {
        *engine.queues.paused(time.time()),
        *(name for text in served for name in named(texts(text) or [])),
        *ended.distinct(),
        *engine.depths.queues(time.time() - SAMPLED),
    } - {""}
