"""Benchmarks as a user starts them, each in its own process."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.processes import ROOT


def benchmark(module: str, *options: str) -> str:
    """Run `python -m MODULE` to its end; return what it printed to stdout."""
    return benchmark_with_progress(module, *options)[0]


def benchmark_with_progress(module: str, *options: str) -> tuple[str, str]:
    """Run `python -m MODULE` to its end; return what it printed to stdout and to stderr."""
    # Benchmarks must ignore a queue that the environment names; a run that used this one would fail.
    environment = os.environ | {"DJJP_DATABASE_URL": "postgres://nobody@127.0.0.1:1/none"}
    done = subprocess.run(
        [sys.executable, "-m", module, *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr
