"""`python -m benchmarks.application`: what runs beside a queue and is measured, or keeps a core as busy.

`write`: the application's own small transactions, about 200 a second in its own database, each timed, until
it is told to stop; the times go to a file. `enqueue N`: jobs that do nothing, one by one. `burn SHARE`: the
processor used as the queue would use it, without a queue.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

_PAUSE = 0.005
# So fine is the work of a process that burns: about as long as a consumer's turn.
_SLICE = 0.005


class Stop:
    """Whether SIGTERM has come."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True


def write(stop: Stop, path: Path) -> None:
    """Insert a row or change one, in a transaction of its own; note the milliseconds of each."""
    from django.db import connection, transaction

    took: list[float] = []
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM bench_application")
        path.with_suffix(".ready").touch()
        due = time.perf_counter()
        while not stop.asked:
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
    """Enqueue jobs as a web process does, one by one."""
    from benchmarks.jobs import noop

    for number in range(jobs):
        noop.run_later(number)


def burn(stop: Stop, share: float) -> None:
    """Use this share of a core."""
    while not stop.asked:
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
