"""Reads what the jobs say of themselves, from the pipe, for as long as the run takes."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, defaultdict
from uuid import UUID

from tests.chaos.jobs import TRACE


class Trace:
    """What was begun and ended, by job.

    Attributes:
        begun: how often each attempt of each job was begun.
        starts: when and in which process each job was begun, by this machine's monotonic clock.
        ended: how often each job came to its own end.
        processes: those that have run a job.
        children: the jobs that jobs have enqueued, as they were told.
    """

    def __init__(self) -> None:
        self.begun: Counter[tuple[UUID, int]] = Counter()
        self.starts: defaultdict[UUID, list[tuple[float, int]]] = defaultdict(list)
        self.processes: set[int] = set()
        self.ended: Counter[UUID] = Counter()
        self.children: set[UUID] = set()
        TRACE.unlink(missing_ok=True)
        os.mkfifo(TRACE)
        # For writing too: so it has never seen its last writer go.
        self._pipe = os.open(TRACE, os.O_RDWR)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def executions(self) -> Counter[UUID]:
        found: Counter[UUID] = Counter()
        for (id, _), times in self.begun.items():
            found[id] += times
        return found

    def close(self) -> None:
        """Read on to the end."""
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

    def _take(self, what: str, job: str, attempt: str, process: str, child: str = "") -> None:
        id = UUID(job)
        if what == "begin":
            self.begun[id, int(attempt)] += 1
            self.processes.add(int(process))
            self.starts[id].append((time.monotonic(), int(process)))
        elif what == "end":
            self.ended[id] += 1
        else:
            self.children.add(UUID(child))
