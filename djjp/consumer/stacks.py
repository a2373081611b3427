"""Stacks: what the running jobs of this process do at this moment, as calls of Python.

The coordinator's thread reads them while the jobs go on: of a function from its thread; of a coroutine from its
tasks, from the thread of its loop while that runs its code, and from the thread on which it uses databases.
"""

from __future__ import annotations

import asyncio
import linecache
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from djjp.bounds import storable
from djjp.consumer.execution import Execution
from djjp.jobs.current import running
from djjp.monitoring.frames import is_project

#: The jobs whose stacks one answer has, those that have run for longest; and the calls of a stack, the innermost.
MOST_JOBS, MOST_CALLS = 200, 60
# The tasks of one job.
_MOST_TASKS = 20
# The longest text of a line of code.
_MOST_CODE = 200
# The code that runs the jobs: its calls come before those of a job.
_RUNNER = Path(__file__).parent

_Line = tuple[FrameType, int]


class RunningJob(NamedTuple):
    """A job that runs in a pool.

    Attributes:
        thread: the id of the thread on which it runs, or of the thread of its loop; 0 for none.
        sync_thread: that of the thread on which a coroutine uses databases.
    """

    execution: Execution
    thread: int
    sync_thread: int


def of_jobs(jobs: Iterable[RunningJob]) -> dict[str, Any]:
    """Return the stacks of running jobs as JSON takes them."""
    found = sorted(jobs, key=lambda job: job.execution.started)
    frames = sys._current_frames()  # noqa: SLF001  (public, in spite of its name)
    return {
        "jobs": [_of_job(job, frames) for job in found[:MOST_JOBS]],
    }


def _of_job(job: RunningJob, frames: dict[int, FrameType]) -> dict[str, Any]:
    execution, stacks = job.execution, []
    if (found := execution.task) is None:
        stacks.append(_stack("thread", _calls(frames.get(job.thread))))
    else:
        loop, main = found
        thread = frames.get(job.thread)
        current = asyncio.current_task(loop)
        for task in _tasks(execution, loop, main):
            if task is current and thread is not None:
                stacks.append(_stack("coroutine", _calls(thread), task))
            else:
                stacks.append(_stack("coroutine", list(_awaited(task.get_coro())), task))
    if job.sync_thread:
        stacks.append(_stack("database thread", _calls(frames.get(job.sync_thread))))
    claimed = execution.claimed
    return {
        "id": str(claimed.id),
        "name": claimed.name,
        "queue": claimed.queue,
        "since": execution.started,
        "stacks": [stack for stack in stacks if stack["calls"]],
    }


def _tasks(
    execution: Execution, loop: asyncio.AbstractEventLoop, main: asyncio.Task[Any]
) -> list[asyncio.Task[Any]]:
    """Return the task of a job, and those that it has started: their contexts name the job."""
    tasks = [main]
    with suppress(RuntimeError):  # other tasks come and go meanwhile
        for task in asyncio.all_tasks(loop):
            context = getattr(task, "get_context", None)  # from Python 3.12 on
            if task is main or context is None or len(tasks) >= _MOST_TASKS:
                continue
            if context().get(running) is execution.current:
                tasks.append(task)
    return tasks


def _calls(frame: FrameType | None) -> list[_Line]:
    """Return the calls of a thread, outermost first, without those of the code that runs the job."""
    lines: list[_Line] = []
    while frame is not None:
        lines.append((frame, frame.f_lineno or 0))
        frame = frame.f_back
    lines.reverse()
    runner = [_is_runner(frame) for frame, _ in lines]
    if True not in runner:
        return lines
    first = runner.index(True)
    # The context of a job is entered in C code; the event loop's calls are between those of the runner.
    rest = [at for at in range(first, len(lines)) if not runner[at] and not _is_loop(lines[at][0])]
    return lines[rest[0] :] if rest else []


def _is_runner(frame: FrameType) -> bool:
    return Path(frame.f_code.co_filename).parent in (_RUNNER, _RUNNER / "pool")


def _is_loop(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__", "").partition(".")[0] in ("asyncio", "selectors")


def _awaited(coroutine: Any) -> Iterator[_Line]:
    """Return the calls of a coroutine that awaits, outermost first."""
    before = True
    while coroutine is not None:
        frame = next(
            (f for name in ("cr_frame", "gi_frame", "ag_frame") if (f := _get(coroutine, name))),
            None,
        )
        if frame is None:
            return
        before = before and _is_runner(frame)
        if not before:
            yield frame, frame.f_lineno or 0
        coroutine = next(
            (
                c
                for name in ("cr_await", "gi_yieldfrom", "ag_await")
                if (c := _get(coroutine, name))
            ),
            None,
        )


def _get(coroutine: Any, name: str) -> Any:
    return getattr(coroutine, name, None)


def _stack(kind: str, lines: list[_Line], task: asyncio.Task[Any] | None = None) -> dict[str, Any]:
    calls = [_call(frame, line) for frame, line in lines[-MOST_CALLS:]]
    return {"kind": kind, "task": "" if task is None else task.get_name(), "calls": calls}


def _call(frame: FrameType, line: int) -> dict[str, Any]:
    file = frame.f_code.co_filename
    return {
        "file": storable(file, 1000),
        "line": line,
        "function": storable(frame.f_code.co_qualname, 200),
        "code": storable(linecache.getline(file, line).strip(), _MOST_CODE),
        "is_project": is_project(file),
    }
