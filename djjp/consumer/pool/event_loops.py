"""Event loops that persist between coroutine jobs, on a pool's thread or on a thread of their own."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from contextvars import Context

from djjp.consumer.execution import Execution
from djjp.consumer.pool.loop_watchdog import Blocked, LoopWatchdog
from djjp.consumer.pool.sync_threads import JobThreadExecutor, ThreadCache
from djjp.consumer.pool.thread_supply import ThreadSupply
from djjp.engine import Outcome
from djjp.exceptions import JobInterrupted
from djjp.jobs.current import CurrentJob

logger = logging.getLogger("djjp.consumer")


class PersistentLoop:
    """Runs coroutine jobs on the calling thread, one at a time.

    Tasks that a job starts and does not await stay on the loop, and continue while a later job runs there.
    """

    def __init__(self, threads: ThreadCache) -> None:
        self._threads = threads
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sync_thread: JobThreadExecutor | None = None

    @property
    def sync_thread(self) -> int:
        """The id of the thread on which the job that runs uses databases; 0 for none."""
        return 0 if self._sync_thread is None else self._sync_thread.thread

    def run(self, execution: Execution) -> Outcome | None:
        """Run a coroutine job to its end."""
        loop = self._loop
        if loop is None or loop.is_closed():  # by something that an earlier job left behind
            loop = self._loop = asyncio.new_event_loop()
        sync_thread = JobThreadExecutor(self._threads)
        sync_thread.job = execution.claimed
        self._sync_thread = sync_thread
        # Past the loop's task factory, which an earlier job can have set.
        task = asyncio.Task(execution.arun(sync_thread), loop=loop)
        while not task.done():
            try:
                loop.run_until_complete(task)
            except JobInterrupted:  # raised in the loop's own code, outside the job
                if execution.is_coroutine:
                    task.cancel()
            except BaseException:  # another task tries to exit; its outcome shows it
                if loop.is_closed():
                    raise
        self._sync_thread = None
        restore_executor(loop)
        return task.result()

    def close(self) -> None:
        """Cancel the tasks that are left on the loop, and close it."""
        if (loop := self._loop) is not None:
            self._loop = None
            shutdown_loop(loop)


def restore_executor(loop: asyncio.AbstractEventLoop) -> None:
    """Let a loop make a new default executor, for `to_thread()`, if a job has shut its own down."""
    executor: object = getattr(loop, "_default_executor", None)
    if getattr(loop, "_executor_shutdown_called", False) or getattr(executor, "_shutdown", False):
        vars(loop).update(_executor_shutdown_called=False, _default_executor=None)


class LoopThread:
    """An event loop on a thread of its own.

    Args:
        context: in which the loop calls functions.
        runs: the jobs that run there; a watchdog observes the loop while there are any.
        on_blocked: called by the watchdog with each blocked loop, on its thread.
    """

    def __init__(
        self,
        context: Context,
        runs: Collection[object],
        on_blocked: Callable[[Blocked], object] = lambda blocked: None,
    ) -> None:
        self._on_blocked = on_blocked
        self._context = context
        self._runs = runs
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread
        self._watchdog: LoopWatchdog
        self._closed = False
        self._lock = threading.Lock()

    @property
    def is_started(self) -> bool:
        return self._loop is not None

    @property
    def thread(self) -> int:
        """The id of its thread; 0 before the start."""
        return (self._thread.ident or 0) if self.is_started else 0

    def start(self, supply: ThreadSupply, jobs: int) -> bool:
        """Start the loop, if it is not started; return False if the system refuses it, or its thread.

        Args:
            jobs: the number of jobs that could run at the same time; for the log.
        """
        with self._lock:
            if self._loop is None:
                if supply.is_short:
                    return False
                try:
                    loop = asyncio.new_event_loop()
                except OSError as error:  # no descriptor is left for it
                    supply.refuse(error, 0, jobs)
                    return False
                thread = threading.Thread(
                    target=self._work, args=[loop], name="djjp-loop", daemon=True
                )
                if not supply.start(thread, 0, jobs):
                    loop.close()
                    return False
                self._thread = thread
                self._watchdog = LoopWatchdog(self._thread, self._runs, self._on_blocked)
                self._loop = loop
            return True

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Have the loop call a function soon, once it is started. Can be called on any thread."""
        if (loop := self._loop) is None:
            return
        if threading.get_ident() == self._thread.ident:
            loop.call_soon(function, *args, context=self._context)
        else:
            with suppress(RuntimeError):  # it was closed: the consumer has ended
                loop.call_soon_threadsafe(function, *args, context=self._context)

    def watch(self) -> None:
        """Wake the watchdog, because `runs` is no longer empty."""
        self._watchdog.wake()

    def current_job(self) -> CurrentJob | None:
        """Return the job whose code the loop runs at this moment."""
        return self._watchdog.current_job()

    def close(self) -> None:
        """Cancel the tasks on the loop, and end its thread."""
        self._closed = True
        if (loop := self._loop) is not None:
            with suppress(RuntimeError):  # the loop has already ended
                loop.call_soon_threadsafe(loop.stop)
            self._watchdog.close()
            if not self._runs:
                self._thread.join(1.0)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        while not self._closed:
            try:
                loop.run_forever()
            except BaseException:
                # For example, a task that a job has started raised SystemExit. The job receives the exception too.
                logger.exception("a task stopped the event loop; restarting it")
        shutdown_loop(loop)


def shutdown_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel the tasks that are left on a stopped loop, let them end, and close the loop."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    with suppress(BaseException):
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=1.0))
        loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
