"""Prometheus: the metrics of the queue as a collector of `prometheus_client`, read from its rows at each scrape.

Every process gives the same figures, those of the whole queue, so any one of them can be scraped, and a restart
of it lets no counter fall. `docs/metrics.md` has all metrics. It needs `djjp[metrics]`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from weakref import WeakSet

from django.db import Error as DatabaseError
from django.db import connections
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from djjp.exceptions import QueueUnavailable
from djjp.monitoring import metrics
from djjp.monitoring.metrics import MOST_SERIES, NO_FACTS, Family, Series

__all__ = ["CONTENT_TYPE", "QueueCollector", "register", "render"]

logger = logging.getLogger("djjp.contrib.prometheus")

#: The media type of what `render` returns.
CONTENT_TYPE = metrics.TEXT


class QueueCollector(Collector):
    """The metrics of the queue, read once for each scrape.

    Args:
        most_series: the number of pairs of queue and name, and of queues, that have series of their own.
    """

    def __init__(self, most_series: int = MOST_SERIES) -> None:
        self._series = Series(most_series)

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without figures: a registry then reads nothing when it registers them."""
        return map(_metric, self._series.families(NO_FACTS))

    def collect(self) -> Iterator[Metric]:
        """Read the queue; return `djjp_up` alone, as 0, if its database does not answer."""
        try:
            with _own_connections_closed():
                facts = metrics.facts()
        except (QueueUnavailable, DatabaseError) as error:
            logger.warning("the metrics of the queue cannot be read: %s", error)
            yield _metric(metrics.up(0))
            return
        yield from map(_metric, self._series.families(facts))


def _metric(family: Family) -> Metric:
    metric = Metric(family.name, family.help, family.kind)
    for suffix, labels, value in family.samples:
        metric.add_sample(family.name + suffix, {**labels}, value)
    return metric


@contextmanager
def _own_connections_closed() -> Iterator[None]:
    """Close the connections that are opened inside: the threads of exporters end without closing any."""
    before = {each.alias for each in connections.all(initialized_only=True) if each.connection}
    try:
        yield
    finally:
        for each in connections.all(initialized_only=True):
            if each.connection is not None and each.alias not in before:
                each.close()


_collector = QueueCollector()
_own_registry = CollectorRegistry()
_own_registry.register(_collector)
_registries: WeakSet[CollectorRegistry] = WeakSet()


def register(registry: CollectorRegistry = REGISTRY) -> None:
    """Add the metrics of the queue to a registry, by default that of `prometheus_client`; again does nothing."""
    if registry not in _registries:
        registry.register(_collector)
        _registries.add(registry)


def render() -> bytes:
    """Return the metrics of the queue alone, in the text format, whose media type is `CONTENT_TYPE`."""
    return generate_latest(_own_registry)
