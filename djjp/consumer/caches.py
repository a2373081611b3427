"""Caches: Django's cache objects, and with them their connections to a server, are kept from job to job.

Django makes a cache object for each context, and each job runs in a context of its own: each job that uses a
cache would connect anew. So the caches are created in the context that the contexts of jobs are copied from,
one set for each slot, because not every backend can be shared by threads.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from contextvars import Context
from typing import NamedTuple

from django.core.cache import BaseCache, caches

logger = logging.getLogger("djjp.consumer")


def create() -> list[BaseCache]:
    """Create the caches of the present context; return those to close at the end of each job."""
    created = []
    for alias in caches:
        with suppress(Exception):  # a job that uses this cache gets the error
            created.append(caches[alias])
    return [cache for cache in created if type(cache).close is not BaseCache.close]


def close(used: Iterable[BaseCache]) -> None:
    """Do at the end of a job what Django does at the end of a request."""
    for cache in used:
        try:
            cache.close()
        except Exception:
            logger.exception("a cache could not be closed")


class SlotContext(NamedTuple):
    """A context that the contexts of coroutine jobs are copied from, one by one, and its caches to close."""

    context: Context
    to_close: list[BaseCache]


class SlotContexts:
    """The contexts of an event loop's jobs; all methods are called on the loop."""

    def __init__(self, base: Context) -> None:
        self._base = base
        self._unused: list[SlotContext] = []

    def take(self) -> SlotContext:
        """Return a context that no running job uses."""
        if self._unused:
            return self._unused.pop()
        context = self._base.copy()
        return SlotContext(context, context.run(create))

    def give_back(self, slot: SlotContext) -> None:
        """Take the context of a job that has ended."""
        close(slot.to_close)
        self._unused.append(slot)
