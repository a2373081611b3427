"""One round of one queue: a new store, jobs enqueued by one process, and then run by others.

A drain is timed from the first statement of the first job to the time at which the last job has ended and the
store records the end of all. So the start of a queue does not count, and its last write does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from benchmarks.environment import ROOT
from benchmarks.peers import stores, work
from benchmarks.peers.peer import Peer, Store

# The most seconds for an act of a queue.
_TIMEOUT = 300.0
# Where commits wait for the disk, more jobs would take minutes and give the same rate.
_ONE_BY_ONE = 1_000


class Round(NamedTuple):
    """Jobs per second: enqueued one by one, in bulk (None if the queue cannot), and run."""

    one_by_one: float
    bulk: float | None
    drain: float


class Broken(Exception):
    """The queue failed; the message contains the last line of its log."""


def noops(peer: Peer, kind: str, server: str | None, jobs: int) -> Round:
    """Enqueue jobs that do nothing, the first ones one by one and the rest in bulk if possible; run them."""
    values = [float(number) for number in range(jobs)]
    single = values[:_ONE_BY_ONE] if peer.bulk else values
    rest = values[len(single) :]
    with stores.made(kind, server) as store:
        one_by_one = len(single) / _enqueued(peer, store, "noop", single, bulk=False)
        bulk = len(rest) / _enqueued(peer, store, "noop", rest, bulk=True) if rest else None
        return Round(one_by_one, bulk, jobs / _drained(peer, store, jobs, None))


def naps(peer: Peer, kind: str, server: str | None, seconds: Sequence[float], slots: int) -> float:
    """Run jobs that sleep, on this number of slots; return the seconds."""
    with stores.made(kind, server) as store:
        _enqueued(peer, store, "nap", seconds, bulk=False)
        return _drained(peer, store, len(seconds), slots)


def _enqueued(peer: Peer, store: Store, job: str, values: Sequence[float], *, bulk: bool) -> float:
    if not any(store.folder.glob("prepared")):
        _finished(_child(peer, store, "prepare", {}), store)
        (store.folder / "prepared").touch()
    options = {"job": job, "values": list(values), "bulk": bulk}
    return float(_finished(_child(peer, store, "enqueue", options), store).split()[-1])


def _drained(peer: Peer, store: Store, jobs: int, slots: int | None) -> float:
    """Have the queue run all jobs; return the seconds from the first job's start to the last job's end."""
    alone = peer.processes(slots) == 1
    with _consumers(peer, store, jobs, slots) as consumers:
        until = time.monotonic() + _TIMEOUT
        last = store.folder / "last"
        while True:
            # The store is not read before the last job has ended: a read can slow the queue, and some queues
            # delete a job when they take it.
            if (last.exists() or not alone) and peer.unfinished(store) == 0:
                break
            if time.monotonic() > until or any(c.poll() not in (None, 0) for c in consumers):
                raise Broken(_with_log(store, f"{peer.unfinished(store)} of {jobs} jobs were left"))
            time.sleep(0.002 if alone else 0.02)
        ended = time.time()
    firsts = [float(mark.read_text()) for mark in store.folder.glob("first-*")]
    return ended - min(firsts)


@contextmanager
def _consumers(
    peer: Peer, store: Store, jobs: int, slots: int | None
) -> Iterator[list[subprocess.Popen[str]]]:
    options = {"slots": slots}
    consumers = [
        _child(peer, store, "consume", options, jobs=jobs, log=True)
        for _ in range(peer.processes(slots))
    ]
    try:
        yield consumers
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for consumer in consumers:
                _signal(consumer, number)


def _signal(process: subprocess.Popen[str], number: int) -> None:
    """Send a signal to the process and its children, which are one process group."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        return


def _child(
    peer: Peer, store: Store, act: str, options: object, *, jobs: int = 0, log: bool = False
) -> subprocess.Popen[str]:
    # In a file, because the values can be too long for a command line.
    path = store.folder / "options.json"
    path.write_text(json.dumps(options))
    command = [sys.executable, "-m", "benchmarks.peers.child", peer.name, act, *map(str, store)]
    marks = {work.FOLDER: str(store.folder), work.JOBS: str(jobs)}
    with (store.folder / "log").open("a") as output:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **marks},
            stdout=output if log else subprocess.PIPE,
            stderr=output,
            text=True,
            start_new_session=True,
        )


def _finished(process: subprocess.Popen[str], store: Store) -> str:
    try:
        out, _ = process.communicate(timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        _signal(process, signal.SIGKILL)
        raise Broken(_with_log(store, f"not finished after {_TIMEOUT:.0f} s")) from None
    if process.returncode != 0:
        raise Broken(_with_log(store, f"exit {process.returncode}"))
    return out


def _with_log(store: Store, why: str) -> str:
    lines = (store.folder / "log").read_text(errors="replace").strip().splitlines()
    return f"{why}; {lines[-1][:150]}" if lines else why
