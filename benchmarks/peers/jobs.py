"""The jobs, registered with djjp."""

from __future__ import annotations

from benchmarks.peers import work
from djjp import job

noop = job(name="noop")(work.noop)
nap = job(name="nap")(work.nap)
