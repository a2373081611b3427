"""Execution: one run of one job, from its row to an `Outcome`.

In order: prepare the call, call the function, make an outcome of its value or exception, and notify
the job's hook. It touches no queue database. Nothing that a job raises escapes it: not `SystemExit`, not
an exception that cannot even be printed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Protocol

from asgiref.sync import async_to_sync, sync_to_async

from djjp import bounds, codec, durations, forks, instruments, logs
from djjp.consumer import connections, job_log, misfit, retries
from djjp.consumer.failures import describe
from djjp.consumer.hooks import RunHooks
from djjp.consumer.raising import raise_in
from djjp.engine import Claimed, Outcome, Progress, new_record
from djjp.exceptions import Discard, JobInterrupted, JobTimedOut
from djjp.jobs import RegisteredJob, registry
from djjp.jobs.current import CurrentJob, running
from djjp.models import Flag, State
from djjp.pipelines import expansion
from djjp.signals import job_finished, job_started

logger = logging.getLogger("djjp.consumer")

# Each execution uses them, and to find one in its class takes longer than to compare it.
_SUCCEEDED, _CANCELLED = State.SUCCEEDED, State.CANCELLED
_EXPANSION, _TAKES_INPUT = Flag.EXPANSION, Flag.TAKES_INPUT


class SyncThread(Protocol):
    """The thread on which one coroutine job uses databases."""

    def enter(self) -> None:
        """Have the present context, and the contexts copied from it, use this thread."""

    async def finish(self, interruption: type[JobInterrupted] | None) -> None:
        """Free the thread, because the job has ended.

        Args:
            interruption: the exception that interrupted the job; None if nothing did.
        """


class Execution:
    """One run of a claimed job.

    Attributes:
        claimed: the job's row, as it was claimed.
        consumer: the name of the consumer that runs the job.
        abandoned: whether the consumer no longer waits for the job's end.
        current: the job as its own code sees it.
        job: the registered job; None if none of that name is registered here, or if it runs no function.
        started: when the run started, in seconds since 1970.
        timeout: the seconds that the job can take; None for no limit.
        hooks: the instruments and the receivers of signals; None where there are none, and before the run.
        may_start: asked right before the job's function is called, after the hooks; the job does not run if it
            returns False. None if nothing can have changed since the run began.
    """

    __slots__ = (
        "_depth",
        "_interrupted",
        "_is_logged",
        "_task",
        "abandoned",
        "claimed",
        "consumer",
        "current",
        "end_interruptions",
        "hooks",
        "job",
        "may_start",
        "started",
        "timeout",
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
        job: RegisteredJob[..., Any] | None
        try:
            job = None if claimed.flags & _EXPANSION else _job_of(claimed)
        except (LookupError, ValueError, TypeError):
            job = None  # `_prepare` raises it as the job's failure
        self.job = job
        self.timeout = None if job is None else job.options.timeout_seconds
        # Greater in a child that the job has forked: it ends where it leaves the job's function.
        self._depth = forks.depth
        self._interrupted: type[JobInterrupted] | None = None
        self._is_logged = False
        # Called before the end is logged: an interruption there could leave a handler of the log locked.
        self.end_interruptions: Callable[[], None] | None = None
        self._task: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        self.started = time.time()
        self.hooks: RunHooks | None = None
        self.may_start: Callable[[Claimed], object] | None = None

    @property
    def is_coroutine(self) -> bool:
        """Return whether the job runs as a task of an event loop by now."""
        return self._task is not None

    @property
    def task(self) -> tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None:
        """The loop and the task of a job that runs as one."""
        return self._task

    @property
    def interruption(self) -> type[JobInterrupted] | None:
        """The exception that interrupted the job; None if nothing did."""
        return self._interrupted

    def run(
        self, run_coroutine: Callable[[Execution], Outcome | None] | None = None
    ) -> Outcome | None:
        """Run the job on the calling thread and return its outcome; None if it does not start after all.

        Args:
            run_coroutine: runs `arun` of an execution whose job is a coroutine function. By default that
                happens on an event loop of its own, and the job uses databases on this thread.
        """
        thread = connections.of_thread()
        if thread.may_have_open:
            connections.tidy(self.claimed, ended=False)
        try:
            if self.job is not None and self.job.is_coroutine:
                return (run_coroutine or _run_coroutine)(self)
            context = copy_context()
            try:
                value = context.run(self._call)
            except BaseException as error:  # noqa: BLE001  (every exception of the job is an outcome)
                if forks.depth != self._depth:
                    forks.end(error)
                # Inside the block, because Django logs the exception that is being handled.
                failed = context.run(self._raised, error)
                return None if failed is None else self._notify(failed)
            if forks.depth != self._depth:
                forks.end(None)
            outcome = self._returned(value)
            if job_log.shows_success():
                context.run(self._logged, outcome)
            if self.hooks is not None:
                context.run(self._end_hooks, self.hooks, outcome)
            if self.job is None or not self.job.wants_outcome:
                return outcome
            return self._notify(outcome)
        finally:
            if thread.may_have_open:
                connections.tidy(self.claimed, ended=True)

    async def arun(self, thread: SyncThread | None = None) -> Outcome | None:
        """Run the job, a coroutine function, in the awaiting task; return as `run` does.

        Args:
            thread: on which the job uses databases; None for the thread that asgiref chooses.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (a coroutine runs in one)
        self._task = asyncio.get_running_loop(), task
        outcome: Outcome | None
        try:
            if (hooks := self._enter(thread)) is not None:
                await hooks.abegin()
            function, args, kwargs = self._prepare()
            value = bounds.encoded_result(await function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  (every exception of the job is an outcome)
            if forks.depth != self._depth:
                forks.end(error)
            outcome = None if self._is_put_off(error) else self.failed(error)
        else:
            if forks.depth != self._depth:
                forks.end(None)
            outcome = self._returned(value)
            if job_log.shows_success():
                self._logged(outcome)
        if outcome is not None and (
            self.hooks is not None or (self.job is not None and self.job.wants_outcome)
        ):
            await self._aended(outcome)
        if thread is not None:
            with suppress(asyncio.CancelledError):
                await thread.finish(self._interrupted)
        return outcome

    def interrupt(self, kind: type[JobInterrupted], thread: int, looks: int = 0) -> bool:
        """Raise an exception inside the job, which runs on the thread of this id.

        A coroutine is cancelled where it awaits. A function gets the exception at its next step in
        Python; if it waits in C code, it gets the exception only when that code has returned.

        Args:
            looks: how often this was tried before.

        Returns:
            whether that is done; False, as `raise_in` does, if it must be tried again.
        """
        if self._task is None:
            # Set before, because the job can end with the exception at once.
            before, self._interrupted = self._interrupted, kind
            if not raise_in(thread, kind, looks):
                self._interrupted = before
                return False
        else:
            self._interrupted = kind
            loop, task = self._task
            with suppress(RuntimeError):  # the loop is closed: the coroutine has just ended
                loop.call_soon_threadsafe(task.cancel)
        return True

    # The parts of an execution, in order

    def _new_hooks(self) -> RunHooks | None:
        """Make the hooks of the run, if there are any. What runs no function of the project has none."""
        if (
            instruments.in_use or job_started.receivers or job_finished.receivers
        ) and not self.claimed.flags & _EXPANSION:
            self.hooks = RunHooks(self.claimed, self.current, self.consumer, self.started)
        return self.hooks

    def _enter(self, thread: SyncThread | None) -> RunHooks | None:
        """Begin the run of a coroutine; return its hooks."""
        hooks = self._new_hooks()
        if self._interrupted is not None:  # before there was a task to cancel
            raise self._interrupted
        if thread is not None:
            thread.enter()
        return hooks

    def _prepare(self) -> tuple[Callable[..., Any], Sequence[Any], Mapping[str, Any]]:
        """Return the job's function and its arguments, and make the job the current one.

        Raises:
            _PutOffError: it is too late for its start.
        """
        running.set(self.current)
        claimed = self.claimed
        flags = claimed.flags
        if flags & _EXPANSION:
            return expansion.run, (claimed, self.current), {}
        job = self.job or _job_of(claimed)
        args, kwargs = codec.decode_arguments(claimed.arguments)
        if flags & _TAKES_INPUT:
            if claimed.input is None:
                raise LookupError("the step before this one in the pipeline has no result any more")
            args.insert(0, codec.decode_value(claimed.input))
        function = job.callable_for(claimed, self.consumer)
        if self.may_start is not None and self.may_start(claimed) is False:
            raise _PutOffError
        return function, args, kwargs

    def _call(self) -> str | None:
        if (hooks := self._new_hooks()) is not None:
            hooks.begin()
        function, args, kwargs = self._prepare()
        value = function(*args, **kwargs)
        return value if self.claimed.flags & _EXPANSION else bounds.encoded_result(value)

    def _returned(self, value: str | None) -> Outcome:
        """Return the outcome of an attempt whose function returned."""
        state = _CANCELLED if self.current.cancelled else _SUCCEEDED
        ended = (self.claimed, state, self.started, time.time(), value, None, None, None)
        outcome: Outcome = new_record(Outcome, ended)
        return outcome

    def _raised(self, error: BaseException) -> Outcome | None:
        """Return the outcome of an attempt that raised an exception; None if its function was not called."""
        if self._is_put_off(error):
            return None
        outcome = self.failed(error)
        if self.hooks is not None:
            self._end_hooks(self.hooks, outcome)
        return outcome

    def _is_put_off(self, error: BaseException) -> bool:
        """Return whether a run ends because it is too late for its start, and if so, end it."""
        if not isinstance(error, _PutOffError):
            return False
        if self.end_interruptions is not None:
            self.end_interruptions()
        if self.hooks is not None:
            self.hooks.put_off()
        return True

    def _end_hooks(self, hooks: RunHooks, outcome: Outcome) -> None:
        if self.end_interruptions is not None:
            self.end_interruptions()  # nothing of the job is left to interrupt
        hooks.end(outcome, abandoned=self.abandoned)

    async def _aended(self, outcome: Outcome) -> None:
        """Call what must be called at the end of a coroutine."""
        if self.hooks is not None:
            await self.hooks.aend(outcome, abandoned=self.abandoned)
        if self.job is not None and self.job.wants_outcome:
            with suppress(BaseException):  # the task was cancelled meanwhile
                await sync_to_async(self._notify)(outcome)

    def failed(self, error: BaseException) -> Outcome:
        """Return the outcome of an attempt that ended with an exception, whatever that is, and log it."""
        try:
            error = self._cause(error)
            outcome = self._failed(error)
        except BaseException as broken:  # noqa: BLE001  (raised by the exception's own class)
            error, outcome = broken, self._ended(State.FAILED, failure=describe(broken))
        if self.hooks is not None:
            self.hooks.job.exception = error
        return self._logged(outcome, error)

    def _logged(self, outcome: Outcome, error: BaseException | None = None) -> Outcome:
        """Log an outcome and return it; the end of a job that was abandoned before is of no interest."""
        if not (self.abandoned and self._is_logged) and not job_log.is_interrupt(error):
            self._is_logged = True
            if self.end_interruptions is not None and self._task is None:
                self.end_interruptions()
            job_log.log_end(
                outcome, None if error is None else retries.bound(self.job, error), error
            )
        return outcome

    def _cause(self, error: BaseException) -> BaseException:
        """Return the interruption, if the exception is how the job has ended by one."""
        if self._interrupted is not None and isinstance(
            error, (JobInterrupted, asyncio.CancelledError)
        ):
            return self._interrupted().with_traceback(error.__traceback__)
        return error

    def _failed(self, error: BaseException) -> Outcome:
        if isinstance(error, JobTimedOut) and not error.args and self.timeout is not None:
            error.args = (f"it ran for longer than its timeout of {self.timeout:g} s",)
        if self.current.cancelled:
            return self._ended(State.CANCELLED)
        if isinstance(error, asyncio.CancelledError) and not error.args:
            error.args = ("its task was cancelled, by itself or by other code on the event loop",)
        if isinstance(error, Discard):
            return self._ended(State.CANCELLED, reason=describe(error).message)
        if type(error) is TypeError and self.job is not None:
            misfit.explain(error, self.job, self.claimed)
        pause = retries.pause(self.job, self.claimed, error)
        failure = describe(error)
        if pause is None:
            return self._ended(State.FAILED, failure=failure)
        if pause == 0:
            return self._ended(State.READY, failure=failure)
        due = min(time.time() + pause, durations.END_OF_TIME)
        return self._ended(State.SCHEDULED, failure=failure, run_after=due)

    def _notify(self, outcome: Outcome) -> Outcome:
        """Call the job's on-finish hook and return the outcome, which the hook cannot change."""
        if self.job is not None and self.job.wants_outcome and not self.abandoned:
            try:
                copy_context().run(self.job.on_finished, outcome, self.consumer)
            except BaseException:
                logger.exception(
                    "%s %s: an on-finish hook raised",
                    self.claimed.name,
                    self.claimed.id,
                    extra=logs.of_job(self.claimed),
                )
        return outcome

    def _ended(self, state: State, **more: Any) -> Outcome:
        return Outcome(self.claimed, state, self.started, time.time(), **more)


class _PutOffError(Exception):
    """The job must not start now: it is released, and claimed anew."""


def _job_of(claimed: Claimed) -> RegisteredJob[..., Any]:
    """Return the job of a claimed row, with the options of its call.

    Raises:
        JobNotRegistered: no job of its name is registered here.
        ValueError, TypeError: its options are none of djjp: a row by hand.
    """
    job = registry.get(claimed.name, claimed.arguments)
    return job if claimed.options is None else job.of_row(claimed.options)


def _run_coroutine(execution: Execution) -> Outcome | None:
    # In a context of its own: otherwise the coroutine's context variables would be set here.
    return copy_context().run(async_to_sync(execution.arun))
