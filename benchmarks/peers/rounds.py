"""One round of one queue: a new store, jobs enqueued by one process, then run by others.

A drain is timed from the first statement of the first job to the moment when the last one has ended and the
store says that all have. So no queue pays for its start, and each pays for its last write.
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

# How long a queue may take to enqueue or run anything at all.
_PATIENCE = 300.0
# Where a commit waits for the disk, more would take minutes, and tell nothing more.
_ONE_BY_ONE = 1_000


class Round(NamedTuple):
    """Jobs a second: enqueued one by one, in bulk (None where it cannot), and run."""

    one_by_one: float
    bulk: float | None
    drain: float


class Broken(Exception):
    """The queue did not do its work; the message says what it said."""


def noops(peer: Peer, kind: str, server: str | None, jobs: int) -> Round:
    """Jobs that do nothing: enqueued one by one, all but the first in bulk where it can; then run."""
    values = [float(number) for number in range(jobs)]
    single = values[:_ONE_BY_ONE] if peer.bulk else values
    rest = values[len(single) :]
    with stores.made(kind, server) as store:
        one_by_one = len(single) / _enqueued(peer, store, "noop", single, bulk=False)
        bulk = len(rest) / _enqueued(peer, store, "noop", rest, bulk=True) if rest else None
        return Round(one_by_one, bulk, jobs / _drained(peer, store, jobs, None))


def naps(peer: Peer, kind: str, server: str | None, seconds: Sequence[float], slots: int) -> float:
    """Jobs that sleep, so many at once; returns how long they took."""
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
    """Have it run all jobs; returns the seconds from the first job's start to the last one's end."""
    alone = peer.processes(slots) == 1
    with _consumers(peer, store, jobs, slots) as consumers:
        until = time.monotonic() + _PATIENCE
        last = store.folder / "last"
        while True:
            # Nobody looks into the store before the last job has ended: a look may cost something, and
            # some queues forget a job when they take it.
            if (last.exists() or not alone) and peer.unfinished(store) == 0:
                break
            if time.monotonic() > until or any(c.poll() not in (None, 0) for c in consumers):
                raise Broken(_said(store, f"{peer.unfinished(store)} of {jobs} jobs were left"))
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
    """To the process and its children: they are a group of their own."""
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
    # In a file: all values would be too long for a command line.
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
        out, _ = process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        _signal(process, signal.SIGKILL)
        raise Broken(_said(store, f"nothing within {_PATIENCE:.0f} s")) from None
    if process.returncode != 0:
        raise Broken(_said(store, f"exit {process.returncode}"))
    return out


def _said(store: Store, why: str) -> str:
    lines = (store.folder / "log").read_text(errors="replace").strip().splitlines()
    return f"{why}; {lines[-1][:150]}" if lines else why
