"""The call queue: calls of running jobs to the engine, executed by the coordinator.

Jobs have no connection to the queue's database. Their enqueues and queries are submitted here,
executed in the coordinator's next turn, together with the calls of other jobs, and resolved once that
turn has committed. So fifty threads that enqueue share one connection and one commit.

While the queue's database is unavailable there is no turn that could take the calls. A call then waits
for its timeout and no longer. It is withdrawn only while it is in no turn, so that no call is refused
and written all the same.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from django.db import Error as DatabaseError
from django.db import transaction

from djjp import conf
from djjp.consumer.wakeup import Wakeup
from djjp.engine import Engine, sessions
from djjp.exceptions import OutcomeUnknown, QueueUnavailable

logger = logging.getLogger("djjp.consumer")

T = TypeVar("T")

#: Seconds after which a call that is in no turn is withdrawn.
TIMEOUT = 30.0
# Seconds between two wake-ups of a waiting thread: an interruption of its job is raised only when it runs.
_POLL_EVERY = 0.5


@dataclass(slots=True, eq=False)
class _Call:
    function: Callable[[Engine], Any]
    future: Future[Any]
    may_be_written: bool = False  # by a turn whose commit was not confirmed


class _Result(NamedTuple):
    value: Any = None
    error: BaseException | None = None


class CallQueue:
    """Collects calls from any thread; all methods but `call` and `acall` belong to the coordinator.

    Args:
        timeout: seconds that a call waits for a turn.
    """

    def __init__(self, wakeup: Wakeup, timeout: float = TIMEOUT) -> None:
        self._wakeup = wakeup
        self._timeout = timeout
        self._calls: deque[_Call] = deque()
        self._in_turn = 0  # the number of calls, from the first, that the present turn executes
        self._results: list[_Result] = []
        self._closed = False
        # Held wherever a call joins a turn or is withdrawn.
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._calls)

    def call(self, function: Callable[[Engine], T]) -> T:
        """Call the function in the coordinator's next turn; return or raise what it returns or raises.

        Raises:
            QueueUnavailable: no turn took the call in time.
            OutcomeUnknown: a turn took it, and whether that turn was committed is not known.
        """
        call = self._submit(function)
        try:
            result: T = self._wait(call)
        except BaseException:
            self._withdraw(call)  # the job was interrupted, and no caller waits any more
            raise
        return result

    async def acall(self, function: Callable[[Engine], T]) -> T:
        """Do for a coroutine as `call` does for a thread; its loop continues meanwhile."""
        call = self._submit(function)
        future: asyncio.Future[T] = asyncio.wrap_future(call.future)
        try:
            # Not awaited directly: a cancellation would cancel the future that the coordinator resolves.
            while not (await asyncio.wait([future], timeout=self._timeout))[0]:
                if self._withdraw(call):
                    raise self._unavailable(call)
        except BaseException:
            self._withdraw(call)
            future.add_done_callback(lambda future: future.cancelled() or future.exception())
            raise
        return future.result()

    def _submit(self, function: Callable[[Engine], T]) -> _Call:
        call = _Call(function, Future())
        self._calls.append(call)
        if self._closed:
            self.close()
        self._wakeup.set()
        return call

    def _wait(self, call: _Call) -> Any:
        until = time.monotonic() + self._timeout
        while True:
            try:
                return call.future.result(_POLL_EVERY)
            except TimeoutError:
                if call.future.done():  # the function itself raised it
                    return call.future.result()
            if time.monotonic() >= until and self._withdraw(call):
                raise self._unavailable(call)

    def _unavailable(self, call: _Call) -> QueueUnavailable:
        if call.may_be_written:
            return OutcomeUnknown(
                f"the connection to the queue's database {conf.current().db_name!r} broke during the call, "
                f"which may have been written; it has not answered within {self._timeout:g} s"
            )
        return QueueUnavailable(
            f"the queue's database {conf.current().db_name!r} did not take the call "
            f"within {self._timeout:g} s"
        )

    def _withdraw(self, call: _Call) -> bool:
        """Remove a call that is in no turn; return whether it was removed."""
        with self._lock:
            for index, waiting in enumerate(self._calls):
                if waiting is call and index >= self._in_turn:
                    del self._calls[index]
                    return True
        return False

    def execute(self, engine: Engine, number: int | None = None) -> None:
        """Execute the first calls, up to a number, in the open transaction, as one group.

        If the group fails, its calls are executed one by one, so that only the culprit fails. If the
        database fails, all of them wait for the next turn.
        """
        with self._lock:
            calls = list(islice(self._calls, number))
            self._in_turn = len(calls)
        self._results = []
        if not calls:
            return
        try:
            with transaction.atomic(using=engine.db.alias):
                self._results = [_Result(call.function(engine)) for call in calls]
        except Exception as error:
            if sessions.is_shared(error, engine.db):
                raise
            logger.debug("a group of calls failed; executing them one by one", exc_info=True)
            self._results = [_execute_alone(call, engine) for call in calls]

    def resolve(self) -> None:
        """Hand the results of `execute` to the callers, now that they are committed."""
        for value, error in self._results:
            with self._lock:
                call = self._calls.popleft()
                self._in_turn -= 1
            if error is None:
                call.future.set_result(value)
            else:
                call.future.set_exception(error)
        self._results = []

    def fail(self, error: Exception, engine: Engine) -> None:
        """Hand an error to the caller whose call alone the turn has executed."""
        self._results = [_Result(error=_for_caller(error, engine))]
        self.resolve()

    def requeue(self, *, rolled_back: bool = False) -> None:
        """Leave the calls of a failed turn to the next one.

        Args:
            rolled_back: whether it is certain that the turn has written nothing.
        """
        with self._lock:
            if self._results and not rolled_back:  # all were executed, and the commit may have been
                for call in islice(self._calls, self._in_turn):
                    call.may_be_written = True
            self._in_turn = 0
        self._results = []

    def close(self) -> None:
        """Refuse all waiting and later calls, because the consumer has ended."""
        self._closed = True
        with self._lock:
            calls, self._calls, self._in_turn = self._calls, deque(), 0
        for call in calls:
            call.future.set_exception(RuntimeError("the consumer that ran this job has ended"))


def _execute_alone(call: _Call, engine: Engine) -> _Result:
    try:
        with transaction.atomic(using=engine.db.alias):
            return _Result(call.function(engine))
    except Exception as error:
        if sessions.is_shared(error, engine.db):
            raise
        return _Result(error=_for_caller(error, engine))


def _for_caller(error: Exception, engine: Engine) -> Exception:
    if isinstance(error, DatabaseError) and not isinstance(error, sessions.REFUSED):
        return sessions.unavailable(engine.db, error)
    return error
