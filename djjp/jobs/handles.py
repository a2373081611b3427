"""`JobHandle`: what a program knows of a job that it enqueued, and can ask of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async

from djjp import codec, engine
from djjp.exceptions import JobCancelled, JobDoesNotExist, JobFailed, QueueUnavailable
from djjp.models import FINISHED, Attempt, Job, State
from djjp.outbox import cancelling
from djjp.outbox import lookup as outbox

# A job that is waited for is looked at soon and then less and less often; seconds.
_FIRST_LOOK, _LAST_LOOK, _SLOWER = 0.002, 0.25, 1.3


class JobHandle:
    """One job of the queue. What it shows was true when the handle last read the job's row.

    `refresh()` reads the row anew; so do `join()` and `retry()`.
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
        """Where the job is in its life."""
        return State(self._read().state) if self._state is None else self._state

    @property
    def attempts(self) -> int:
        """How many executions were begun."""
        return self._read().attempts

    @property
    def result(self) -> Any:
        """What the function returned; None while there is nothing."""
        text = self._read().result
        return None if text is None else codec.decode_value(text)

    @property
    def reason(self) -> str | None:
        """Why the job was cancelled, where that was said."""
        return self._read().reason

    @property
    def progress(self) -> tuple[int, int | None] | None:
        """How far the job said that it has come: what is done, and of how much; None before it says so."""
        row = self._read()
        return None if row.progress_done is None else (row.progress_done, row.progress_total)

    @property
    def errors(self) -> list[Attempt]:
        """The failed attempts, oldest first: `exception_class`, `message`, `traceback` of each."""
        if self._errors is None:
            self._errors = engine.run(lambda engine: _load_errors(engine.db.alias, self.id))
        return list(self._errors)

    def refresh(self) -> None:
        """Read the job's row anew.

        Raises:
            JobDoesNotExist: the row is gone.
        """
        self._refreshed()

    def join(self, timeout: float | None = None) -> Any:
        """Wait until the job has ended, and return its result.

        Args:
            timeout: seconds to wait at most; None waits for ever.

        Raises:
            JobFailed: it failed for good; the text holds its last error's message.
            JobCancelled: it was cancelled.
            TimeoutError: it has not ended in time; it goes on.
            JobDoesNotExist: its row is gone.
        """
        for pause in self._looks(timeout):
            time.sleep(pause)
        return self._end()

    async def ajoin(self, timeout: float | None = None) -> Any:
        """`join` for coroutines."""
        looks = self._looks(timeout)
        look = sync_to_async(lambda: next(looks, None))
        while (pause := await look()) is not None:
            await asyncio.sleep(pause)
        return await sync_to_async(self._end)()

    def retry(self) -> None:
        """Make a job that has ended ready again, with fresh attempts; its errors are kept.

        A job that has not ended is left alone.
        """
        engine.run(lambda engine: engine.control.retry([self.id]))
        self.refresh()

    def cancel(self) -> None:
        """Stop the job, unless it has ended.

        One that waits is cancelled at once. One that runs is told so by `current_job().cancelled`; a
        coroutine is cancelled too, and a function that goes on all the same is interrupted after a few
        seconds. Then it ends as cancelled; until then its state is `running`.
        """
        if not engine.run(lambda engine: engine.control.cancel([self.id], time.time())):
            cancelling.cancel(self.id)
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
        row = _load(self.id)
        self._row, self._state, self._errors = row, State(row.state), None
        return row

    def _looks(self, timeout: float | None) -> Iterator[float]:
        """Refresh until the job has ended, yielding how long to pause before each next look."""
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_LOOK
        while True:
            self.refresh()
            if self._state in FINISHED:
                return
            left = pause if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"job {self.id} is still {self._state} after {timeout} s")
            yield min(pause, left)
            pause = min(pause * _SLOWER, _LAST_LOOK)

    def _end(self) -> Any:
        if self._state == State.CANCELLED:
            raise JobCancelled(self.id, self.reason)
        if self._state == State.FAILED:
            last = self.errors[-1] if self.errors else Attempt()
            raise JobFailed(self.id, last.exception_class, last.message, last.traceback)
        return self.result


def get_job(id: UUID | str) -> JobHandle:
    """The handle of a job, by its id or the id's text.

    Raises:
        JobDoesNotExist: no job has this id.
    """
    try:
        handle = JobHandle(id if isinstance(id, UUID) else UUID(id))
    except (ValueError, AttributeError, TypeError):
        raise JobDoesNotExist(id) from None
    handle.refresh()
    return handle


async def aget_job(id: UUID | str) -> JobHandle:
    """`get_job` for coroutines."""
    return await sync_to_async(get_job)(id)


def _load(id: UUID) -> Job:
    """The job's row: the queue's, or what an outbox holds until the job is relayed."""
    try:
        row = _load_from_queue(id) or outbox.find(id)
    except QueueUnavailable:
        row = outbox.find(id)
        if row is None:
            raise
    # It may have been relayed between the two looks.
    row = row or _load_from_queue(id)
    if row is None:
        raise JobDoesNotExist(id)
    return row


def _load_from_queue(id: UUID) -> Job | None:
    return engine.run(lambda engine: Job.objects.using(engine.db.alias).filter(pk=id).first())


def _load_errors(alias: str, id: UUID) -> list[Attempt]:
    return list(Attempt.objects.using(alias).filter(job_id=id).order_by("pk"))
