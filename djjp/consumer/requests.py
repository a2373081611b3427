"""Requests: a consumer does what its row asks, and writes the answer there. See `djjp.engine.requests`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from djjp.consumer import stacks
from djjp.consumer.claiming import Claimer
from djjp.consumer.pool import Pool
from djjp.engine import Engine

logger = logging.getLogger("djjp.consumer")


class Requests:
    """Answers the requests to one consumer. Its methods are called by the coordinator.

    Attributes:
        stop: stops the consumer gracefully, as a SIGTERM does; further calls have no effect.
    """

    def __init__(
        self, engine: Engine, claimer: Claimer, pool: Pool, stop: Callable[[], object]
    ) -> None:
        self.stop = stop
        self._engine = engine
        self._claimer = claimer
        self._pool = pool

    def answer(self, consumer: str) -> None:
        """Answer the request in a consumer's row, if there is one, and do what it asks after that."""
        text = self._engine.requests.of(consumer)
        if text is None:
            return
        request = _read(text)
        verb = request.get("verb")
        before, found = self._claimer.quiet, {}
        if verb == "stack":
            found = stacks.of_jobs(self._pool.running())
        elif verb in ("quiet", "unquiet"):
            self._claimer.quiet = verb == "quiet"
        elif verb != "stop":
            found = {"error": "this consumer does not know such a request"}
        answer = json.dumps({**found, "id": request.get("id"), "verb": verb})
        quiet = self._claimer.quiet
        self._engine.requests.answer(consumer, text, answer, quiet=quiet)
        if quiet != before:
            does = "claims no further jobs" if quiet else "claims jobs again"
            logger.info("consumer %s %s, as requested", consumer, does)
            self._claimer.may_have_ready = True
        if verb == "stop":
            logger.info("consumer %s is stopped, as requested", consumer)
            self.stop()


def _read(text: str) -> dict[str, Any]:
    """Return a request; an empty one for a text by hand that is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
