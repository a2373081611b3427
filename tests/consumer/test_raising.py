"""An interruption that came too late for its job leaves nothing behind in the interpreter."""

from __future__ import annotations

import subprocess
import sys

HANGS_IF_A_TRACE_IS_LEFT = """
import threading
from cProfile import Profile

from djjp.consumer.raising import drop_sent

thread = threading.Thread(target=drop_sent)
thread.start()
thread.join()


def call():
    return 1


with Profile():
    print(call())
"""


def test_after_it_a_thread_can_be_profiled() -> None:
    """Python 3.11 hangs at the first call that is traced, if another thread has set no exception in its place."""
    ran = subprocess.run(
        [sys.executable, "-c", HANGS_IF_A_TRACE_IS_LEFT],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, "1\n"), ran.stderr
