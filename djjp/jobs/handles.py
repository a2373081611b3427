"""`JobHandle`: the state and result of an enqueued job, and its cancel and retry."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any, Generic
from uuid import UUID

from asgiref.sync import sync_to_async

from djjp import codec, engine, logs
from djjp.engine import Engine
from djjp.exceptions import JobCancelled, JobDoesNotExist, JobFailed, QueueUnavailable
from djjp.jobs.hints import OF_HANDLE, Hints
from djjp.jobs.reading import as_uuid, load_errors, read_row
from djjp.jobs.typevars import Result
from djjp.models import FINISHED, Attempt, Flag, Job, State
from djjp.outbox import pending, transactions

logger = logging.getLogger("djjp.jobs")

# `join()` reads the row soon and then ever more rarely; pauses in seconds.
_FIRST_PAUSE, _LONGEST_PAUSE, _PAUSE_FACTOR = 0.002, 0.25, 1.3


class JobHandle(Hints, Generic[Result]):
    """One job of the queue, as it was when the handle last read the job's row.

    `refresh()`, `join()`, `retry()` and `cancel()` read the row anew. A property that reads it raises as
    `refresh()` does.
    """

    __slots__ = ("_errors", "_row", "_state", "id")

    _words = OF_HANDLE

    def __init__(self, id: UUID, state: State | None = None) -> None:
        self.id = id
        self._state = state
        self._row: Job | None = None
        self._errors: list[Attempt] | None = None

    def __repr__(self) -> str:
        return f"<JobHandle {self.id} {self._state or 'unread'}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JobHandle) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def state(self) -> State:
        """The job's state.

        One of `scheduled` (its time has not come), `blocked` (it waits for its parents in a pipeline, or
        for a permit under its limit), `ready`, `running`, `succeeded`, `failed` and `cancelled`.
        """
        return State(self._read().state) if self._state is None else self._state

    @property
    def ended(self) -> bool:
        """True once the job has succeeded, failed or been cancelled, as last read."""
        return self.state in FINISHED

    @property
    def name(self) -> str:
        """The name under which its function is registered."""
        return self._read().name

    @property
    def tags(self) -> list[str]:
        """Its tags: those of `@job`, then those of `using()`."""
        return self._read().tags

    @property
    def options(self) -> dict[str, Any]:
        """The options of `using()` for its execution: `timeout`, `max_attempts` and `backoff`, where given."""
        return self._read().call_options

    @property
    def created_at(self) -> datetime:
        """The time of its enqueue; aware with `USE_TZ`, as the other times are."""
        created: datetime = self._read().created_at
        return created

    @property
    def started_at(self) -> datetime | None:
        """The start of its last attempt; None until the first has started."""
        started: datetime | None = self._read().started_at
        return started

    @property
    def finished_at(self) -> datetime | None:
        """The time of its end; None until then."""
        row = self._read()
        finished: datetime | None = row.finished_at if row.state in FINISHED else None
        return finished

    @property
    def attempts(self) -> int:
        """The number of executions started; an execution that was released does not count."""
        return self._read().attempts

    @property
    def result(self) -> Result | None:
        """The return value of the function; None until the job has succeeded."""
        text = self._read().result
        return None if text is None else codec.decode_value(text)

    @property
    def reason(self) -> str | None:
        """Why the job was cancelled; None if no reason was given."""
        return self._read().reason

    @property
    def progress(self) -> tuple[int, int | None] | None:
        """The last reported progress as `(done, total)`; `total` can be None. None before the first report."""
        row = self._read()
        return None if row.progress_done is None else (row.progress_done, row.progress_total)

    @property
    def errors(self) -> list[Attempt]:
        """The failed attempts, oldest first.

        Each is a row with `number` (int, from 1), `exception_class` (str, a dotted path), `message` (str),
        `traceback` (str), `consumer` (str) and `started_at` and `finished_at` (datetime).
        """
        if self._errors is None:
            self._errors = engine.run(lambda engine: load_errors(engine.db.alias, self.id))
        return list(self._errors)

    def refresh(self) -> None:
        """Read the job's row anew.

        Raises:
            JobDoesNotExist: the row is gone.
            QueueUnavailable: the queue's database does not answer.
        """
        self._refreshed()

    def join(self, timeout: float | None = None) -> Result:
        """Wait until the job has ended, and return its result.

        Args:
            timeout: the longest wait, in seconds; None for no limit.

        Raises:
            JobFailed: it failed for good; the text holds its last error's message.
            JobCancelled: it was cancelled.
            TimeoutError: it has not ended in time; it continues. At once, where it cannot end before the open
                transaction in which this is called, as when that transaction has enqueued it.
            JobDoesNotExist: its row is gone.
            QueueUnavailable: the queue's database does not answer.
        """
        for pause in self._polls(timeout):
            time.sleep(pause)
        return self._end()

    async def ajoin(self, timeout: float | None = None) -> Result:
        """`join` for coroutines."""
        polls = self._polls(timeout)
        poll = sync_to_async(lambda: next(polls, None))
        while (pause := await poll()) is not None:
            await asyncio.sleep(pause)
        return await sync_to_async(self._end)()

    def retry(self) -> bool:
        """Run a job again that has ended, with fresh attempts; its errors are kept.

        Returns:
            True if the job was retried; False, with a line in the log, if it has not ended and is not changed.

        Raises:
            JobDoesNotExist: its row is gone.
            QueueUnavailable: the queue's database does not answer.
        """
        return self._retried(engine.run(lambda engine: engine.control.retry([self.id])))

    def cancel(self) -> None:
        """Stop the job, unless it has ended.

        A waiting job is cancelled at once. A running job sees it in `current_job().cancelled`; a
        coroutine is cancelled too, and a function that continues nevertheless is interrupted after a few
        seconds. Then the job ends as cancelled; until then its state is `running`.

        Raises:
            JobDoesNotExist: its row is gone.
            QueueUnavailable: the queue's database does not answer.
        """
        verb = lambda engine: engine.control.cancel([self.id], time.time())  # noqa: E731  (of this call alone)
        pending.cancel(self.id, lambda: engine.run(verb))
        self._refresh_after_write()

    async def arefresh(self) -> None:
        """`refresh` for coroutines."""
        await sync_to_async(self.refresh)()

    async def aretry(self) -> bool:
        """`retry` for coroutines."""
        return await sync_to_async(self.retry)()

    async def acancel(self) -> None:
        """`cancel` for coroutines."""
        await sync_to_async(self.cancel)()

    def _read(self) -> Job:
        return self._refreshed() if self._row is None else self._row

    def _refreshed(self) -> Job:
        row = read_row(self.id, self._load)
        self._row, self._state, self._errors = row, State(row.state), None
        return row

    def _refresh_after_write(self) -> None:
        """Refresh, if the database still answers: the write itself is committed."""
        self._row = self._state = self._errors = None
        with suppress(QueueUnavailable):
            self.refresh()

    def _retried(self, count: int) -> bool:
        """Refresh after a retry of this number of jobs; return whether there was any, and log if not."""
        if count:
            transactions.record(engine.current().db.connection, [self.id])
        self._refresh_after_write()
        if not count:
            text = "job %s was not retried: it is %s, and unchanged"
            logger.warning(text, self.id, self._state, extra=logs.of_id(self.id))
        return count > 0

    def _load(self, engine: Engine) -> Job | None:
        row = Job.objects.using(engine.db.alias).filter(pk=self.id).first()
        if row is not None and row.flags & Flag.COLLECTS and row.state == State.SUCCEEDED:
            row.result = row.result or engine.inputs.results(self.id)
        return row

    def _polls(self, timeout: float | None) -> Iterator[float]:
        """Refresh until the job has ended, yielding the pause in seconds before each next refresh."""
        started, paused = time.monotonic(), 0.0
        pause = _FIRST_PAUSE
        while True:
            try:
                self.refresh()
            except JobDoesNotExist:  # a step of a pipeline that is in an outbox
                self._refuse_hopeless_wait()
                raise
            if self._state in FINISHED:
                return
            self._refuse_hopeless_wait()
            if timeout is not None:
                # The pauses count where a test has stopped the clock.
                left = timeout - max(time.monotonic() - started, paused)
                if left <= 0:
                    raise TimeoutError(f"job {self.id} is still {self._state} after {timeout} s")
                pause = min(pause, left)
            yield pause
            paused += pause
            pause = min(pause * _PAUSE_FACTOR, _LONGEST_PAUSE)

    def _refuse_hopeless_wait(self) -> None:
        """Raise if the job cannot end while a transaction of this thread is open."""
        queue = engine.current().db
        if (alias := transactions.enqueuing(self.id)) is not None:
            why = f"the open transaction of {alias!r} enqueued or retried it; it cannot start before its commit"
        elif (
            queue.connection.in_atomic_block
            and not queue.sees_commits_in_transaction
            and not transactions.is_of_testcase(queue.alias)
        ):
            why = f"its end cannot be seen in the open transaction of {queue.alias!r}"
        else:
            return
        raise TimeoutError(
            f"job {self.id} is still {self._state}: {why}; call join() after the atomic() block"
        )

    def _end(self) -> Result:
        if self._state == State.CANCELLED:
            raise JobCancelled(self.id, self.reason)
        if self._state == State.FAILED:
            last = self.errors[-1] if self.errors else Attempt()
            raise JobFailed(self.id, last.exception_class, last.message, last.traceback)
        result: Any = self.result
        return result  # type: ignore[no-any-return]  # as its function says


def find_job(id: UUID | str) -> JobHandle:
    """Return the handle of one job, also where its id is that of a pipeline.

    Raises:
        JobDoesNotExist: no job has this id.
        QueueUnavailable: the queue's database does not answer.
    """
    handle = JobHandle(as_uuid(id))
    handle.refresh()
    return handle
