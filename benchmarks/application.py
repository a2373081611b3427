"""`python -m benchmarks.application`: the application's processes in `benchmarks.isolation`.

`write FILE` runs the application's own small transactions, about 200 a second in its own database, until
SIGTERM, and writes the duration of each to the file. `enqueue N` enqueues N jobs that do nothing, one by one.
`burn SHARE` uses this share of a core, as much as the queue would, without a queue.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

_PAUSE = 0.005
# Seconds of a cycle of work and sleep in a process that burns: about as long as a consumer's turn.
_SLICE = 0.005


class Stop:
    """Records SIGTERM."""

    def __init__(self) -> None:
        self.requested = False
        signal.signal(signal.SIGTERM, self._request)

    def _request(self, *_: object) -> None:
        self.requested = True


def write(stop: Stop, path: Path) -> None:
    """Insert and update rows in turn, each in its own transaction; record the milliseconds of each."""
    from django.db import connection, transaction

    took: list[float] = []
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM bench_application")
        path.with_suffix(".ready").touch()
        due = time.perf_counter()
        while not stop.requested:
            began = time.perf_counter()
            with transaction.atomic():
                if len(took) % 2:
                    cursor.execute(
                        "INSERT INTO bench_application (number, body) VALUES (%s, %s)",
                        [len(took), "x" * 100],
                    )
                else:
                    cursor.execute(
                        "UPDATE bench_application SET number = number + 1 WHERE id = %s",
                        [len(took) % 100 + 1],
                    )
            ended = time.perf_counter()
            took.append((ended - began) * 1000)
            due = max(due + _PAUSE, ended)
            time.sleep(max(0.0, due - ended))
    path.write_text(json.dumps(took))


def enqueue(jobs: int) -> None:
    """Enqueue jobs one by one, as a web process does."""
    from benchmarks.jobs import noop

    for number in range(jobs):
        noop.run_later(number)


def burn(stop: Stop, share: float) -> None:
    """Use this share of a core."""
    while not stop.requested:
        began = time.perf_counter()
        while time.perf_counter() - began < _SLICE * share:
            pass
        time.sleep(_SLICE * (1 - share))


def main() -> None:
    act, value = sys.argv[1:]
    stop = Stop()
    if act == "burn":
        burn(stop, float(value))
        return
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
    import django

    django.setup()
    if act == "write":
        write(stop, Path(value))
    else:
        enqueue(int(value))


if __name__ == "__main__":
    main()
