"""`JobHandle`: the state and result of an enqueued job, and its cancel and retry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async

from djjp import codec, engine
from djjp.engine import Engine
from djjp.exceptions import JobCancelled, JobDoesNotExist, JobFailed, QueueUnavailable
from djjp.models import FINISHED, Attempt, Job, State
from djjp.outbox import pending

# `join()` reads the row soon and then ever more rarely; pauses in seconds.
_FIRST_PAUSE, _LONGEST_PAUSE, _PAUSE_FACTOR = 0.002, 0.25, 1.3


class JobHandle:
    """One job of the queue, as it was when the handle last read the job's row.

    `refresh()`, `join()`, `retry()` and `cancel()` read the row anew. A property that reads it raises as
    `refresh()` does.
    """

    __slots__ = ("_errors", "_row", "_state", "id")

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
    def attempts(self) -> int:
        """The number of executions started; an execution that was given back does not count."""
        return self._read().attempts

    @property
    def result(self) -> Any:
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
            self._errors = engine.run(lambda engine: _load_errors(engine.db.alias, self.id))
        return list(self._errors)

    def refresh(self) -> None:
        """Read the job's row anew.

        Raises:
            JobDoesNotExist: the row is gone.
            QueueUnavailable: the queue's database does not answer.
        """
        self._refreshed()

    def join(self, timeout: float | None = None) -> Any:
        """Wait until the job has ended, and return its result.

        Args:
            timeout: the longest wait, in seconds; None for no limit.

        Raises:
            JobFailed: it failed for good; the text holds its last error's message.
            JobCancelled: it was cancelled.
            TimeoutError: it has not ended in time; it is not stopped by this.
            JobDoesNotExist: its row is gone.
            QueueUnavailable: the queue's database does not answer.
        """
        for pause in self._polls(timeout):
            time.sleep(pause)
        return self._end()

    async def ajoin(self, timeout: float | None = None) -> Any:
        """`join` for coroutines."""
        polls = self._polls(timeout)
        poll = sync_to_async(lambda: next(polls, None))
        while (pause := await poll()) is not None:
            await asyncio.sleep(pause)
        return await sync_to_async(self._end)()

    def retry(self) -> None:
        """Make a job that has ended ready again, with fresh attempts; its errors are kept.

        A job that has not ended is left alone.

        Raises:
            JobDoesNotExist: its row is gone.
            QueueUnavailable: the queue's database does not answer.
        """
        engine.run(lambda engine: engine.control.retry([self.id]))
        self.refresh()

    def cancel(self) -> None:
        """Stop the job, unless it has ended.

        A waiting job is cancelled at once. A running job sees it in `current_job().cancelled`; a
        coroutine is cancelled too, and a function that continues nevertheless is interrupted after a few
        seconds. Then the job ends as cancelled; until then its state is `running`.

        Raises:
            JobDoesNotExist: its row is gone.
            QueueUnavailable: the queue's database does not answer.
        """
        if not engine.run(lambda engine: engine.control.cancel([self.id], time.time())):
            pending.cancel(self.id)
        self.refresh()

    async def arefresh(self) -> None:
        """`refresh` for coroutines."""
        await sync_to_async(self.refresh)()

    async def aretry(self) -> None:
        """`retry` for coroutines."""
        await sync_to_async(self.retry)()

    async def acancel(self) -> None:
        """`cancel` for coroutines."""
        await sync_to_async(self.cancel)()

    def _read(self) -> Job:
        return self._refreshed() if self._row is None else self._row

    def _refreshed(self) -> Job:
        row = read_row(self.id, self._load)
        self._row, self._state, self._errors = row, State(row.state), None
        return row

    def _load(self, engine: Engine) -> Job | None:
        return Job.objects.using(engine.db.alias).filter(pk=self.id).first()

    def _polls(self, timeout: float | None) -> Iterator[float]:
        """Refresh until the job has ended, yielding the pause in seconds before each next refresh."""
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_PAUSE
        while True:
            self.refresh()
            if self._state in FINISHED:
                return
            left = pause if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"job {self.id} is still {self._state} after {timeout} s")
            yield min(pause, left)
            pause = min(pause * _PAUSE_FACTOR, _LONGEST_PAUSE)

    def _end(self) -> Any:
        if self._state == State.CANCELLED:
            raise JobCancelled(self.id, self.reason)
        if self._state == State.FAILED:
            last = self.errors[-1] if self.errors else Attempt()
            raise JobFailed(self.id, last.exception_class, last.message, last.traceback)
        return self.result


def get_job(id: UUID | str) -> JobHandle:
    """Return the handle of a job, by its id or the id's text.

    Raises:
        JobDoesNotExist: no job has this id.
        QueueUnavailable: the queue's database does not answer.
    """
    handle = JobHandle(as_uuid(id))
    handle.refresh()
    return handle


async def aget_job(id: UUID | str) -> JobHandle:
    """`get_job` for coroutines."""
    return await sync_to_async(get_job)(id)


def as_uuid(id: UUID | str) -> UUID:
    """Return an id, or its text, as a UUID.

    Raises:
        JobDoesNotExist: it is no UUID, so no job has it.
    """
    try:
        return id if isinstance(id, UUID) else UUID(id)
    except (ValueError, AttributeError, TypeError):
        raise JobDoesNotExist(id) from None


def read_row(id: UUID, load: Callable[[Engine], Job | None]) -> Job:
    """Return the row of a job or a pipeline: the queue's, or the one in an outbox until it is relayed.

    Args:
        load: reads it from the queue.

    Raises:
        JobDoesNotExist: neither has it.
        QueueUnavailable: the queue's database does not answer, and no outbox has it.
    """
    try:
        row = engine.run(load) or pending.find(id)
    except QueueUnavailable:
        row = pending.find(id)
        if row is None:
            raise
    # It may have been relayed between the two reads.
    row = row or engine.run(load)
    if row is None:
        raise JobDoesNotExist(id)
    return row


def _load_errors(alias: str, id: UUID) -> list[Attempt]:
    return list(Attempt.objects.using(alias).filter(job_id=id).order_by("pk"))
