"""The desk: verbs that running jobs ask of the queue, answered by the coordinator.

Jobs have no queue connection of their own. What they enqueue or look up is laid on the desk, done in
the coordinator's next turn, together with what the other jobs asked for, and answered once that
turn has committed. So fifty threads that enqueue share one connection and one commit.

While the queue's database is away no turn comes to them. A call then waits for so long and no longer;
it is taken back only when it is in no turn, so that nothing is refused and written all the same.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from django.db import InterfaceError, OperationalError, transaction

from djjp import conf
from djjp.consumer.wakeup import Bell
from djjp.engine import Engine
from djjp.exceptions import QueueUnavailable

logger = logging.getLogger("djjp.consumer")

T = TypeVar("T")

#: Seconds after which a call that is in no turn is taken back.
PATIENCE = 30.0
# How long a waiting thread sleeps at most: only when it wakes an interruption of its job strikes.
_NAP = 0.5

# Errors that are no call's own fault: the database, or the transaction, is not there for any of them.
_NOBODYS = (OperationalError, InterfaceError, transaction.TransactionManagementError)


class _Call(NamedTuple):
    verb: Callable[[Engine], Any]
    answer: Future[Any]


class _Answer(NamedTuple):
    value: Any = None
    error: BaseException | None = None


class Desk:
    """Collects calls from any thread; all but `call` and `acall` belongs to the coordinator.

    Args:
        patience: seconds that a call waits for a turn.
    """

    def __init__(self, bell: Bell, patience: float = PATIENCE) -> None:
        self._bell = bell
        self._patience = patience
        self._calls: deque[_Call] = deque()
        self._served = 0  # how many of the calls, from the first, are in the present turn
        self._answers: list[_Answer] = []
        self._closed = False
        # Held wherever a call is taken into a turn, or back.
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._calls)

    def call(self, verb: Callable[[Engine], T]) -> T:
        """Have `verb` run in the coordinator's next turn; returns what it returned, raises what it raised.

        Raises:
            QueueUnavailable: the queue's database did not take it in time.
        """
        call = self._lay(verb)
        try:
            answer: T = self._answer(call)
        except BaseException:
            self._take_back(call)  # interrupted: nobody waits for it any more
            raise
        return answer

    async def acall(self, verb: Callable[[Engine], T]) -> T:
        """`call` for coroutines, whose loop goes on meanwhile."""
        call = self._lay(verb)
        answer: asyncio.Future[T] = asyncio.wrap_future(call.answer)
        try:
            # Not awaited itself: to cancel that would cancel what the coordinator is about to set.
            while not (await asyncio.wait([answer], timeout=self._patience))[0]:
                if self._take_back(call):
                    raise self._unavailable()
        except BaseException:
            self._take_back(call)
            answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())
            raise
        return answer.result()

    def _lay(self, verb: Callable[[Engine], T]) -> _Call:
        call = _Call(verb, Future())
        self._calls.append(call)
        if self._closed:
            self.close()
        self._bell.ring()
        return call

    def _answer(self, call: _Call) -> Any:
        until = time.monotonic() + self._patience
        while True:
            try:
                return call.answer.result(_NAP)
            except TimeoutError:
                if call.answer.done():  # its own
                    return call.answer.result()
            if time.monotonic() >= until and self._take_back(call):
                raise self._unavailable()

    def _unavailable(self) -> QueueUnavailable:
        return QueueUnavailable(
            f"the queue's database {conf.current().db_name!r} did not take the call "
            f"within {self._patience:g} s"
        )

    def _take_back(self, call: _Call) -> bool:
        """Remove a call that is in no turn; whether it was there."""
        with self._lock:
            for place, waiting in enumerate(self._calls):
                if waiting is call and place >= self._served:
                    del self._calls[place]
                    return True
        return False

    def serve(self, engine: Engine) -> None:
        """Run the waiting verbs in the open transaction, as one group.

        When the group fails its verbs are run one by one, so that only the culprit does. When it is the
        database that fails, all of them are left for the next turn.
        """
        with self._lock:
            calls = list(self._calls)
            self._served = len(calls)
        self._answers = []
        if not calls:
            return
        try:
            with transaction.atomic(using=engine.db.alias):
                self._answers = [_Answer(call.verb(engine)) for call in calls]
        except _NOBODYS:
            raise
        except Exception:
            logger.debug("a group of calls failed and is run one by one", exc_info=True)
            self._answers = [_alone(call, engine) for call in calls]

    def answer(self) -> None:
        """Tell the callers what `serve` did, now that it is committed."""
        for value, error in self._answers:
            with self._lock:
                call = self._calls.popleft()
                self._served -= 1
            if error is None:
                call.answer.set_result(value)
            else:
                call.answer.set_exception(error)
        self._answers = []

    def lay_back(self) -> None:
        """The turn has failed: what it was to do waits again."""
        with self._lock:
            self._served = 0
        self._answers = []

    def close(self) -> None:
        """Refuse what is still on the desk and what comes later: its consumer has ended."""
        self._closed = True
        with self._lock:
            calls, self._calls, self._served = self._calls, deque(), 0
        for call in calls:
            call.answer.set_exception(RuntimeError("the consumer that ran this job has ended"))


def _alone(call: _Call, engine: Engine) -> _Answer:
    try:
        with transaction.atomic(using=engine.db.alias):
            return _Answer(call.verb(engine))
    except _NOBODYS:
        raise
    except Exception as error:  # noqa: BLE001  (it is the calling job's to handle)
        return _Answer(error=error)
