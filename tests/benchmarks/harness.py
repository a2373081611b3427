"""A benchmark as people start it, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.processes import ROOT


def benchmark(module: str, *options: str) -> str:
    """Run `python -m benchmarks.MODULE` to its end; returns what it printed."""
    # A queue that the environment names is not for benchmarks: were it used, the run would fail.
    environment = os.environ | {"DJJP_DATABASE_URL": "postgres://nobody@127.0.0.1:1/none"}
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
