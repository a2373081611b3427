"""Chores: do what must not stop a consumer's turns, and log once what the database refuses of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from djjp.engine import Engine, Refusal

logger = logging.getLogger("djjp.consumer")

T = TypeVar("T")


class Chores:
    """Does chores. A refusal that is about what a chore does ends this chore for now, and nothing else."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._logged: dict[str, str] = {}  # the last error of each chore

    def do(self, name: str, work: Callable[[], T]) -> T | None:
        """Return the result of a chore, or None if it is refused; an outage is raised.

        A chore that others have kept from its locks is due again soon, so that is not logged.
        """
        try:
            result = work()
        except Exception as error:
            refusal = self._engine.db.classify(error)
            if refusal.is_outage:
                raise
            text = " ".join(f"{type(error).__name__}: {error}".split())[:1000]
            if refusal is Refusal.CONTENT and self._logged.get(name) != text:
                self._logged[name] = text
                logger.warning("a chore failed, and is tried again later: %s (%s)", name, text)
            return None
        self._logged.pop(name, None)
        return result
