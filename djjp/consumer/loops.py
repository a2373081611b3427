"""Loops: the event loop of one thread of a pool, which lasts from one coroutine job to the next."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from djjp.claims import Outcome
from djjp.consumer.aside import Aside, Threads
from djjp.consumer.execution import Execution
from djjp.exceptions import JobInterrupted


class LastingLoop:
    """Runs coroutine jobs on the thread that calls it, one at a time.

    What a job starts and does not await stays on the loop, and goes on while a later job runs there.
    """

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, execution: Execution) -> Outcome:
        """Run a coroutine job to its end."""
        loop = self._loop = self._loop or asyncio.new_event_loop()
        task = loop.create_task(execution.arun(Aside(self._threads)))
        while not task.done():
            try:
                loop.run_until_complete(task)
            except JobInterrupted:  # it has struck the loop itself
                if execution.is_coroutine:
                    task.cancel()
            except BaseException:  # noqa: BLE001, S112  (a task beside it wants to exit; its outcome tells)
                continue
        return task.result()

    def close(self) -> None:
        """Cancel what is left on the loop, and close it."""
        if (loop := self._loop) is not None:
            self._loop = None
            wind_up(loop)


def wind_up(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what is left on a loop that does not run, let it end, and close the loop."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    with suppress(BaseException):
        loop.run_until_complete(asyncio.wait(left, timeout=1.0)) if left else None
        loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
