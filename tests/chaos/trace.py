"""Read the events that the jobs write into the pipe, during the whole run."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, defaultdict
from uuid import UUID

from tests.chaos.jobs import TRACE


class Trace:
    """The begins and ends of each job.

    Attributes:
        begun: the number of begins of each attempt of each job.
        starts: the time, by this machine's monotonic clock, and the process of each begin of a job.
        ended: the number of ends of each job.
        processes: the processes that have run a job.
        children: the jobs that jobs have enqueued, by the handles that they got.
    """

    def __init__(self) -> None:
        self.begun: Counter[tuple[UUID, int]] = Counter()
        self.starts: defaultdict[UUID, list[tuple[float, int]]] = defaultdict(list)
        self.processes: set[int] = set()
        self.ended: Counter[UUID] = Counter()
        self.children: set[UUID] = set()
        TRACE.unlink(missing_ok=True)
        os.mkfifo(TRACE)
        # Opened for writing too, so that the pipe is never without a writer, which would end the reading.
        self._pipe = os.open(TRACE, os.O_RDWR)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def executions(self) -> Counter[UUID]:
        found: Counter[UUID] = Counter()
        for (id, _), times in self.begun.items():
            found[id] += times
        return found

    def close(self) -> None:
        """Read the rest, and close the pipe."""
        os.write(self._pipe, b"over\n")
        self._thread.join()
        os.close(self._pipe)
        TRACE.unlink()

    def _read(self) -> None:
        rest = b""
        while True:
            *lines, rest = (rest + os.read(self._pipe, 65536)).split(b"\n")
            for line in lines:
                if line == b"over":
                    return
                self._take(*line.decode().split())

    def _take(self, event: str, job: str, attempt: str, process: str, child: str = "") -> None:
        id = UUID(job)
        if event == "begin":
            self.begun[id, int(attempt)] += 1
            self.processes.add(int(process))
            self.starts[id].append((time.monotonic(), int(process)))
        elif event == "end":
            self.ended[id] += 1
        else:
            self.children.add(UUID(child))
