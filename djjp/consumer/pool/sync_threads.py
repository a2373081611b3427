"""JobThreadExecutor: threads for what coroutine jobs do with databases, so that their loop goes on meanwhile.

Django has the queries of coroutines (`aget`, `sync_to_async`) done on one thread of the whole process,
unless a context names another. Here each coroutine job gets a thread of its own: when it first needs
one, and until it ends. So no job waits for the query of another, and a job keeps its connections, as
it would in a function. The threads go from job to job; one that nobody has needed for a while ends.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from asgiref.sync import SyncToAsync, ThreadSensitiveContext
from django.db import connections

from djjp.consumer.connections import replace, tidy
from djjp.consumer.execution import raise_in
from djjp.engine import can_skip_thread
from djjp.exceptions import JobInterrupted, JobStopped

#: Seconds after which a thread that no job needs ends, and closes its connections.
IDLE = 10.0
#: Seconds that a part which its job has left behind gets to end, before its thread counts as lost.
GRACE = 1.0


class ThreadCache:
    """The threads that no job has at the moment, and how many will not come back."""

    def __init__(self) -> None:
        self._free: list[_Thread] = []
        self._struck: dict[_Thread, float] = {}
        self._closed = False
        self._lock = threading.Lock()

    @property
    def abandoned(self) -> int:
        """How many threads are busy with a part that was interrupted and does not stop."""
        if not self._struck:
            return 0
        with self._lock:
            return sum(1 for since in self._struck.values() if since < time.monotonic() - GRACE)

    def close(self) -> None:
        """Let the threads end once they have nothing to do."""
        with self._lock:
            self._closed = True
            free, self._free = self._free, []
        for thread in free:
            thread.put(None)

    def take(self) -> _Thread:
        """One for a job to have: the last that came back, for its connections are in use."""
        with self._lock:
            if self._free:
                return self._free.pop()
        return _Thread(self)

    def give_back(self, thread: _Thread) -> bool:
        """No job has this thread any more; whether it is to wait for the next one."""
        with self._lock:
            self._struck.pop(thread, None)
            if not self._closed:
                self._free.append(thread)
            return not self._closed

    def dismiss(self, thread: _Thread) -> bool:
        """Let a thread end; False when a job has just got it."""
        with self._lock:
            if thread in self._free:
                self._free.remove(thread)
                return True
            return False

    def strike(self, thread: _Thread) -> None:
        """Note that a thread was interrupted, and should soon come back."""
        with self._lock:
            self._struck[thread] = time.monotonic()


class JobThreadExecutor(Executor):
    """The thread of one coroutine job, as what asgiref takes for its executor.

    It belongs to the thread of the job's loop.
    """

    def __init__(self, threads: ThreadCache) -> None:
        self._threads = threads
        self._thread: _Thread | None = None
        self._ended = False

    def enter(self) -> None:
        """Have the present context, and what descends from it, use this thread."""
        context = ThreadSensitiveContext()
        SyncToAsync.context_to_thread_executor[context] = self
        SyncToAsync.thread_sensitive_context.set(context)
        can_skip_thread.set(self.is_unused)

    def is_unused(self) -> bool:
        """Whether the job has needed no thread so far."""
        return self._thread is None

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self._ended:
            raise RuntimeError(
                "the job has ended: what it has left running cannot use its thread for databases; "
                "await what a job starts"
            )
        if self._thread is None:
            self._thread = self._threads.take()
            self._thread.put(tidy)
        future: Future[Any] = Future()
        self._thread.put(partial(self._thread.do, future, partial(function, *args, **kwargs)))
        return future

    async def leave(self, interruption: type[JobInterrupted] | None) -> None:
        """The job has ended: wait until the thread is free for the next one.

        Args:
            interruption: what the job was interrupted by, if it was. Then what it still does on the thread
                is too, and nobody waits for it.
        """
        self._ended = True
        if self._thread is None:
            return
        back: Future[None] = Future()
        self._thread.put(partial(self._thread.come_back, back))
        if interruption is not None:
            self._thread.interrupt(interruption)
            return
        try:
            await asyncio.wait([asyncio.wrap_future(back)])
        except asyncio.CancelledError:
            self._thread.interrupt(JobStopped)
            raise


class _Thread:
    """A thread that does one thing after the other."""

    def __init__(self, threads: ThreadCache) -> None:
        self._threads = threads
        self._line: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._busy = False
        self._struck = False
        # Held wherever an interruption is sent or a part ends, so that none strikes what comes next.
        self._lock = threading.Lock()
        self._id = 0
        threading.Thread(target=self._work, name="djjp-aside", daemon=True).start()

    def put(self, what: Callable[[], object] | None) -> None:
        self._line.put(what)

    def do(self, future: Future[Any], part: Callable[[], Any]) -> None:
        """Do a part of the job, unless nobody waits for it any more."""
        if not future.set_running_or_notify_cancel():
            return
        self._busy = True
        try:
            try:
                result = part()
            finally:
                self._part_ended()
        except BaseException as error:  # noqa: BLE001  (the job's own, whatever it is)
            self._busy = False
            future.set_exception(error)
        else:
            future.set_result(result)

    def _part_ended(self) -> None:
        with self._lock:
            self._busy = False
            if self._struck:
                raise_in(self._id, None)

    def interrupt(self, kind: type[JobInterrupted]) -> None:
        with self._lock:
            if self._busy:
                self._struck = True
                self._threads.strike(self)
                raise_in(self._id, kind)

    def come_back(self, back: Future[None]) -> None:
        if self._struck:
            replace()
        else:
            tidy()
        self._struck = False
        if not self._threads.give_back(self):
            self.put(None)
        back.set_result(None)

    def _work(self) -> None:
        self._id = threading.get_ident()
        try:
            while True:
                try:
                    what = self._line.get(timeout=IDLE)
                except Empty:
                    if self._threads.dismiss(self):
                        return
                    continue
                if what is None:
                    return
                what()
        finally:
            connections.close_all()
