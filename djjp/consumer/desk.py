"""The desk: verbs that running jobs ask of the queue, answered by the coordinator.

Jobs have no queue connection of their own. What they enqueue or look up is laid on the desk, done in
the coordinator's next turn, together with what the other jobs asked for, and answered once that
turn has committed. So fifty threads that enqueue share one connection and one commit.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from django.db import transaction

from djjp.claims import Claims
from djjp.consumer.wakeups import Bell

logger = logging.getLogger("djjp.consumer")

T = TypeVar("T")


class _Call(NamedTuple):
    verb: Callable[[Claims], Any]
    answer: Future[Any]


class _Answer(NamedTuple):
    value: Any = None
    error: BaseException | None = None


class Desk:
    """Collects calls from any thread; `serve` and `answer` belong to the coordinator."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._calls: deque[_Call] = deque()
        self._answers: list[_Answer] = []
        self._closed = False

    def __len__(self) -> int:
        return len(self._calls)

    def call(self, verb: Callable[[Claims], T]) -> T:
        """Have `verb` run in the coordinator's next turn; returns what it returned, raises what it raised."""
        call = _Call(verb, Future())
        self._calls.append(call)
        if self._closed:
            self.close()
        self._bell.ring()
        answer: T = call.answer.result()
        return answer

    def serve(self, claims: Claims) -> None:
        """Run the waiting verbs in the open transaction, as one group.

        When the group fails its verbs are run one by one, so that only the culprit does.
        """
        calls = list(self._calls)
        self._answers = []
        if not calls:
            return
        try:
            with transaction.atomic(using=claims.alias):
                self._answers = [_Answer(call.verb(claims)) for call in calls]
        except Exception:
            logger.debug("a group of calls failed and is run one by one", exc_info=True)
            self._answers = [_alone(call, claims) for call in calls]

    def answer(self) -> None:
        """Tell the callers what `serve` did, now that it is committed."""
        for value, error in self._answers:
            call = self._calls.popleft()
            if error is None:
                call.answer.set_result(value)
            else:
                call.answer.set_exception(error)
        self._answers = []

    def close(self) -> None:
        """Refuse what is still on the desk and what comes later: its consumer has ended."""
        self._closed = True
        while self._calls:
            refusal = RuntimeError("the consumer that ran this job has ended")
            self._calls.popleft().answer.set_exception(refusal)


def _alone(call: _Call, claims: Claims) -> _Answer:
    try:
        with transaction.atomic(using=claims.alias):
            return _Answer(call.verb(claims))
    except Exception as error:  # noqa: BLE001  (it is the calling job's to handle)
        return _Answer(error=error)
