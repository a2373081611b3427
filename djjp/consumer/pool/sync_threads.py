"""JobThreadExecutor: the threads on which coroutine jobs use databases without blocking their loop.

Django executes the queries of coroutines (`aget`, `sync_to_async`) on one thread of the whole process, unless
a context names another. Here each coroutine job gets a thread of its own, from its first query until its
end. So no job waits for the query of another, and a job keeps its connections, as it would in a function.
A thread is reused by later jobs; it ends when no job has needed it for a while.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from math import inf
from queue import Empty, SimpleQueue
from typing import Any

from asgiref.sync import SyncToAsync, ThreadSensitiveContext
from django.db import connections

from djjp.consumer import connections as job_connections
from djjp.consumer.raising import LOOK_EVERY, MOST_LOOKS, drop_sent, raise_in
from djjp.engine import Claimed, can_skip_thread
from djjp.exceptions import JobInterrupted, JobStopped

#: Seconds after which an idle thread ends, and closes its connections.
IDLE = 10.0
#: Seconds that an interrupted function gets to end before its thread counts as abandoned.
GRACE = 1.0
# Seconds between two attempts to start threads that the system refused.
_RETRY_EVERY = 1.0


class ThreadCache:
    """The idle threads, and the threads on which a function was interrupted and has not ended."""

    def __init__(self) -> None:
        self._idle: list[_Thread] = []
        self._interrupted: dict[_Thread, float] = {}  # by thread, when
        self._postponed: list[_Thread] = []  # which must be interrupted, but were amid a lock
        self._late: list[_Thread] = []  # in use by jobs, although the system refused to start them
        self._closed = False
        self._lock = threading.Lock()

    @property
    def abandoned(self) -> int:
        """The number of threads busy with a function that was interrupted and does not stop."""
        if not self._interrupted:
            return 0
        with self._lock:
            return sum(1 for at in self._interrupted.values() if at < time.monotonic() - GRACE)

    def close(self) -> None:
        """Let the threads end once they have nothing to do."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for thread in idle:
            thread.put(None)

    def take(self) -> _Thread:
        """Take a thread, preferring the most recently returned one because its connections are warm."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
        thread = _Thread(self)
        if not thread.start():
            with self._lock:
                self._late.append(thread)
        return thread

    def next_late(self) -> _Thread | None:
        """Take a thread that was not started, for a thread of the system that has become free."""
        with self._lock:
            return self._late.pop(0) if self._late else None

    def enforce(self) -> float:
        """Try again what was not possible: interruptions and starts; return the seconds until the next attempt."""
        due = self.start_late()
        if self._postponed:
            with self._lock:
                postponed, self._postponed = self._postponed, []
            for thread in postponed:
                thread.interrupt_now()
        return min(due, LOOK_EVERY) if self._postponed else due

    def start_late(self) -> float:
        """Try again to start the threads that the system refused; return the seconds until the next attempt."""
        while self._late and (thread := self.next_late()) is not None:
            if not thread.start():
                with self._lock:
                    self._late.insert(0, thread)
                return _RETRY_EVERY
        return inf

    def give_back(self, thread: _Thread) -> bool:
        """Take a thread back from its job; return whether it must wait for the next job."""
        with self._lock:
            self._interrupted.pop(thread, None)
            waits = not self._closed and not self._late
            if waits:
                self._idle.append(thread)
            return waits

    def remove(self, thread: _Thread) -> bool:
        """Remove an idle thread, which ends; return False if a job has just taken it."""
        with self._lock:
            if thread in self._idle:
                self._idle.remove(thread)
                return True
            return False

    def is_idle(self, thread: _Thread) -> bool:
        """Return whether no job uses a thread."""
        with self._lock:
            return thread in self._idle

    def mark_interrupted(self, thread: _Thread) -> None:
        """Record that the function on a thread was interrupted: the thread should be returned soon."""
        with self._lock:
            self._interrupted[thread] = time.monotonic()

    def postpone(self, thread: _Thread) -> None:
        """Have `enforce` try again to interrupt the function on a thread."""
        with self._lock:
            self._postponed.append(thread)


class JobThreadExecutor(Executor):
    """The thread of one coroutine job, as the executor that asgiref takes.

    All its methods are called on the thread of the job's loop. Functions that run on one thread, one after the
    other, can share one: what a function does with databases in `asyncio.run()` happens there.

    Attributes:
        job: the job that runs.
        is_used: whether the job has needed the thread so far.
    """

    job: Claimed

    def __init__(self, threads: ThreadCache) -> None:
        self._threads = threads
        self._thread: _Thread | None = None
        self.is_used = False
        self._ended = False

    def enter(self) -> None:
        """Have the present context, and the contexts copied from it, use this thread."""
        self.enter_function()
        can_skip_thread.set(self.is_unused)

    def enter_function(self) -> None:
        """Do `enter` for functions: their transactions are on their own thread, which is always looked at."""
        context = ThreadSensitiveContext()
        SyncToAsync.context_to_thread_executor[context] = self
        SyncToAsync.thread_sensitive_context.set(context)

    def is_unused(self) -> bool:
        """Return whether the job has needed no thread so far."""
        return not self.is_used

    @property
    def thread(self) -> int:
        """The id of the thread while a function of the job runs on it; else 0."""
        return 0 if (thread := self._thread) is None else thread.busy_id

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self._ended:
            raise RuntimeError(
                "the job has ended: a task that it started and did not await cannot use its thread for "
                "databases; await what a job starts"
            )
        if self._thread is None:
            self._thread, self.is_used = self._threads.take(), True
            self._thread.put(partial(job_connections.tidy, self.job, ended=False))
        future: Future[Any] = Future()
        self._thread.put(partial(self._thread.call, future, partial(function, *args, **kwargs)))
        return future

    async def finish(self, interruption: type[JobInterrupted] | None) -> None:
        """Return the thread to the cache, because the job has ended; wait until the thread is idle.

        Args:
            interruption: the exception that interrupted the job; None if nothing did. It is raised in the
                function that still runs on the thread too, and its end is not awaited.
        """
        self._ended = True
        if self._thread is None:
            return
        returned: Future[None] = Future()
        self._thread.put(partial(self._thread.return_to_cache, self.job, returned))
        if interruption is not None:
            self._thread.interrupt(interruption)
            return
        try:
            await asyncio.wait([asyncio.wrap_future(returned)])
        except asyncio.CancelledError:
            self._thread.interrupt(JobStopped)
            raise

    def finish_function(self, interruption: type[JobInterrupted] | None) -> None:
        """Return the thread to the cache, because a function has ended; the next one takes another."""
        if (thread := self._thread) is not None:
            self._thread, self.is_used = None, False
            thread.put(partial(thread.return_to_cache, self.job, Future()))
            if interruption is not None:
                thread.interrupt(interruption)


class _Thread:
    """A thread that calls functions, one after the other."""

    def __init__(self, threads: ThreadCache) -> None:
        self._threads = threads
        self._queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._busy = False
        self._interrupted = False
        self._kind: type[JobInterrupted] = JobStopped
        self._looks = 0
        # Held wherever an interruption is sent or a function ends, so that no interruption hits the next one.
        self._lock = threading.Lock()
        self._id = 0

    @property
    def busy_id(self) -> int:
        """The id of this thread while it calls a function of a job; else 0."""
        return self._id if self._busy else 0

    def start(self) -> bool:
        """Start to call functions; return False if the system refuses a thread."""
        try:
            threading.Thread(target=self._run, name="djjp-sync", daemon=True).start()
        except RuntimeError:
            return False
        return True

    def put(self, function: Callable[[], object] | None) -> None:
        """Have the thread call a function after those put before; None ends the thread."""
        self._queue.put(function)

    def call(self, future: Future[Any], function: Callable[[], Any]) -> None:
        """Call a function of the job for a future, unless the future was cancelled."""
        if not future.set_running_or_notify_cancel():
            return
        self._busy = True
        try:
            try:
                result = function()
            finally:
                self._function_ended()
        except BaseException as error:  # noqa: BLE001  (the job handles it, whatever it is)
            self._busy = False
            future.set_exception(error)
        else:
            future.set_result(result)

    def _function_ended(self) -> None:
        with self._lock:
            self._busy = False
            if self._interrupted:
                drop_sent()

    def interrupt(self, kind: type[JobInterrupted]) -> None:
        """Raise an exception in the function that runs on this thread, if one does."""
        with self._lock:
            if self._busy:
                self._interrupted, self._kind, self._looks = True, kind, 0
                self._threads.mark_interrupted(self)
        self.interrupt_now()

    def interrupt_now(self) -> None:
        """Raise the exception in the function that must be interrupted, or postpone that once more."""
        with self._lock:
            if self._busy and self._interrupted and not raise_in(self._id, self._kind, self._looks):
                self._looks += 1
                if self._looks < MOST_LOOKS:
                    self._threads.postpone(self)

    def return_to_cache(self, job: Claimed, returned: Future[None]) -> None:
        """Put the connections in order after a job and wait for the next one; called on this thread."""
        if self._interrupted:
            job_connections.replace()
        else:
            job_connections.tidy(job, ended=True)
        self._interrupted = False
        if not self._threads.give_back(self):
            self.put(None)
        returned.set_result(None)

    def _run(self) -> None:
        """Work, then work for the threads that were not started."""
        thread: _Thread | None = self
        while thread is not None:
            thread.work()
            thread = self._threads.next_late()

    def work(self) -> None:
        """Call the functions that are put, until the thread is idle for long."""
        self._id = threading.get_ident()
        connections_here = job_connections.keep()
        try:
            while True:
                has_kept = connections_here.has_kept
                try:
                    function = self._queue.get(timeout=job_connections.REST if has_kept else IDLE)
                except Empty:
                    if has_kept:
                        # A job that takes the thread meanwhile calls its first function after this.
                        if self._threads.is_idle(self):
                            job_connections.rest()
                    elif self._threads.remove(self):
                        return
                    continue
                if function is None:
                    return
                function()
        finally:
            connections.close_all()
