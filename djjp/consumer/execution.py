"""Execution: one run of one job, from its row to an `Outcome`.

A flat recipe: find the function, decode, call, encode, and say how it ended. It touches no queue
database, and nothing that a job does escapes it: not `SystemExit`, not an exception that cannot
even be printed.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Protocol

from asgiref.sync import async_to_sync, sync_to_async

from djjp import codec, durations
from djjp.consumer import connections
from djjp.consumer.failures import describe
from djjp.engine import Claimed, Outcome, Progress
from djjp.exceptions import Discard, JobInterrupted, JobTimedOut, Retry
from djjp.jobs import RegisteredJob, registry, retries
from djjp.jobs.current import CurrentJob, running
from djjp.models import Flag, State

logger = logging.getLogger("djjp.consumer")


class Aside(Protocol):
    """A thread for what a coroutine job does with databases."""

    def enter(self) -> None:
        """Have the present context, and what descends from it, use this thread."""

    async def leave(self, interruption: type[JobInterrupted] | None) -> None:
        """The job has ended, by an interruption or by itself."""


class Execution:
    """One run of a claimed job.

    Attributes:
        claimed: what is run.
        consumer: the name of the consumer that runs it.
        abandoned: whether its consumer has stopped to wait for its end.
        timeout: seconds that it may take; None for no limit.
        current: what the job sees of itself.
    """

    __slots__ = (
        "_interrupted",
        "_task",
        "abandoned",
        "claimed",
        "consumer",
        "current",
        "job",
        "started",
    )

    def __init__(
        self,
        claimed: Claimed,
        report: Callable[[Progress], None] | None = None,
        consumer: str = "",
    ) -> None:
        self.claimed = claimed
        self.consumer = consumer
        self.abandoned = False
        self.current = CurrentJob(claimed, report)
        self.job: RegisteredJob[..., Any] | None
        try:
            self.job = registry.get(claimed.name, claimed.arguments)
        except LookupError:
            self.job = None  # `_call` says why
        self._interrupted: type[JobInterrupted] | None = None
        self._task: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        self.started = time.time()

    @property
    def timeout(self) -> float | None:
        """Seconds that it may take; None for no limit."""
        return None if self.job is None else self.job.options.timeout_seconds

    @property
    def is_coroutine(self) -> bool:
        """Whether it runs as a task of an event loop by now."""
        return self._task is not None

    @property
    def interruption(self) -> type[JobInterrupted] | None:
        """What it was interrupted by, if it was."""
        return self._interrupted

    def run(self, run_coroutine: Callable[[Execution], Outcome] | None = None) -> Outcome:
        """Run the job here and now, on this thread, and say how it ended.

        Args:
            run_coroutine: does `arun` of an execution whose job is a coroutine function. By default that
                is done on a loop of its own, with what it does with databases on this thread.
        """
        connections.tidy()
        try:
            if self.job is not None and self.job.is_coroutine:
                return (run_coroutine or _run_coroutine)(self)
            result = copy_context().run(self._call)
        except BaseException as error:  # noqa: BLE001  (the job's own, whatever it is, is its outcome)
            return self._told(self.failed(error))
        else:
            outcome = self._returned(result)
            return (
                outcome if self.job is None or not self.job.wants_outcome else self._told(outcome)
            )
        finally:
            connections.tidy()

    async def arun(self, aside: Aside | None = None) -> Outcome:
        """Run the job, of a coroutine function, in the task that awaits this, and say how it ended.

        Args:
            aside: the thread for what the job does with databases; None for whichever asgiref has.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (a coroutine runs in one)
        self._task = asyncio.get_running_loop(), task
        try:
            if self._interrupted is not None:  # before there was a task to cancel
                raise self._interrupted
            if aside is not None:
                aside.enter()
            function, args, kwargs = self._prepared()
            result = codec.encode_value(await function(*args, **kwargs), "return value")
        except BaseException as error:  # noqa: BLE001  (the job's own, whatever it is, is its outcome)
            outcome = self.failed(error)
        else:
            outcome = self._returned(result)
        if self.job is not None and self.job.wants_outcome:
            with suppress(BaseException):  # cancelled while it is told
                await sync_to_async(self._told)(outcome)
        if aside is not None:
            with suppress(asyncio.CancelledError):
                await aside.leave(self._interrupted)
        return outcome

    def _returned(self, result: str) -> Outcome:
        state = State.CANCELLED if self.current.cancelled else State.SUCCEEDED
        return Outcome(self.claimed, state, self.started, time.time(), result)

    def failed(self, error: BaseException) -> Outcome:
        """The outcome of an attempt that ended with an exception."""
        if self._interrupted is not None and isinstance(
            error, (JobInterrupted, asyncio.CancelledError)
        ):
            error = self._interrupted().with_traceback(error.__traceback__)
        if isinstance(error, JobTimedOut) and not error.args:
            error.args = (f"it ran for longer than its timeout of {self.timeout:g} s",)
        if self.current.cancelled:
            return self._ended(State.CANCELLED)
        if isinstance(error, Discard):
            return self._ended(State.CANCELLED, reason=describe(error).message)
        pause = self._pause(error)
        failure = describe(error)
        if pause is None:
            return self._ended(State.FAILED, failure=failure)
        if pause == 0:
            return self._ended(State.READY, failure=failure)
        due = min(time.time() + pause, durations.END_OF_TIME)
        return self._ended(State.SCHEDULED, failure=failure, run_after=due)

    def _told(self, outcome: Outcome) -> Outcome:
        """The outcome, after the job was told of it. Nothing that comes of that changes it."""
        if self.job is not None and self.job.wants_outcome and not self.abandoned:
            try:
                copy_context().run(self.job.on_finished, outcome, self.consumer)
            except BaseException:
                logger.exception(
                    "%s %s: an on-finish hook raised", self.claimed.name, self.claimed.id
                )
        return outcome

    def interrupt(self, kind: type[JobInterrupted], thread: int) -> None:
        """Have an exception raised inside the job, which runs on that thread.

        A coroutine is cancelled where it awaits. A function gets the exception at its next step in
        Python; one that waits in C does not notice before that has returned.
        """
        self._interrupted = kind
        if self._task is None:
            raise_in(thread, kind)
        else:
            loop, task = self._task
            with suppress(RuntimeError):  # the loop is closed: the coroutine has just ended
                loop.call_soon_threadsafe(task.cancel)

    def _call(self) -> str:
        function, args, kwargs = self._prepared()
        return codec.encode_value(function(*args, **kwargs), "return value")

    def _prepared(self) -> tuple[Any, list[Any], dict[str, Any]]:
        """What to call, and with which arguments."""
        running.set(self.current)
        job = self.job or registry.get(self.claimed.name, self.claimed.arguments)
        args, kwargs = codec.decode_arguments(self.claimed.arguments)
        if self.claimed.flags & Flag.TAKES_INPUT:
            if self.claimed.input is None:
                raise LookupError("what this step of a pipeline waits for has no result any more")
            args.insert(0, codec.decode_value(self.claimed.input))
        return job.callable_for(self.claimed, self.consumer), args, kwargs

    def _pause(self, error: BaseException) -> float | None:
        """Seconds until the next attempt; None when there is none."""
        job = self.job
        if job is None:
            return None
        number = self.claimed.attempt - self.claimed.rescues
        if isinstance(error, Retry):
            if job.options.max_attempts is not None and number >= job.options.max_attempts:
                return None
        elif number >= (job.options.max_attempts or 1) or not isinstance(
            error, (*job.options.retried_exceptions, JobTimedOut)
        ):
            return None
        try:
            if isinstance(error, Retry) and error.after is not None:
                return durations.seconds("after", error.after)
            return retries.pause(job.options.backoff, number)
        except BaseException:
            logger.exception(
                "backoff of job %s raised or returned no duration; using the default backoff",
                job.name,
            )
            return retries.exponential(number)

    def _ended(self, state: State, **more: Any) -> Outcome:
        return Outcome(self.claimed, state, self.started, time.time(), **more)


def _run_coroutine(execution: Execution) -> Outcome:
    # In a context of its own: what a coroutine sets would else be set here.
    return copy_context().run(async_to_sync(execution.arun))


def raise_in(thread: int, kind: type[BaseException] | None) -> None:
    """Have an exception raised in a thread at its next step; None takes back what has not been yet."""
    target = None if kind is None else ctypes.py_object(kind)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), target)
