"""`python -m benchmarks.peers`: the same jobs through djjp and through other queues, in one run."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import environment, report
from benchmarks.options import count, some_of
from benchmarks.peers import rounds
from benchmarks.peers.peer import Peer
from benchmarks.report import Column, Section, Spread, progress
from benchmarks.sleeping import ideal, sleeps

#: djjp comes first, because the others are compared with it.
PEERS = (
    "djjp",
    "huey",
    "django_tasks_db",
    "steady_queue",
    "celery",
    "procrastinate",
    "pgqueuer",
    "oban",
)
_STORES = ("sqlite", "redis", "postgresql")
_SLOTS = 10

_NOOPS = [
    Column("queue", "queue"),
    Column("store", "store"),
    Column("jobs", "jobs", ",d"),
    Column("one by one /s", "one_by_one_per_second", ",.0f"),
    Column("in bulk /s", "bulk_per_second", ",.0f"),
    Column("drain jobs/s", "jobs_per_second", ",.0f"),
    Column("djjp : it", "ratio", ".1f"),
    Column("note", "note"),
]
_NAPS = [
    Column("queue", "queue"),
    Column("store", "store"),
    Column("jobs", "jobs", ",d"),
    Column("at once", "slots", "d"),
    Column("seconds", "seconds", ".2f"),
    Column("ideal s", "ideal_seconds", ".2f"),
    Column("ratio", "ratio", ".3f"),
    Column("note", "note"),
]
_SETTINGS = [
    Column("queue", "queue"),
    Column("version", "version"),
    Column("settings", "settings"),
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure djjp and each installed queue; a queue that is not installed gets a row with a note."""
    options = _parser().parse_args(arguments)
    peers = [_peer(name) for name in PEERS if name == "djjp" or name in options.only]
    with _server(options.stores) as server:
        sections = _sections(options, peers, server)
        report.publish(environment.machine(), sections, as_json=options.json)


def _sections(
    options: argparse.Namespace, peers: Sequence[Peer], server: str | None
) -> Iterator[Section]:
    pairs = [
        (p, kind) for kind in _STORES for p in peers if kind in p.stores and kind in options.stores
    ]
    yield Section(
        "settings", "What is compared", _SETTINGS, [_settings_row(peer) for peer in peers]
    )
    yield _noops(options, pairs, server)
    if options.naps:
        yield _naps(options, pairs, server)


def _settings_row(peer: Peer) -> dict[str, Any]:
    installed = peer.missing() is None
    return {
        "queue": peer.name,
        "version": peer.version() if installed else "–",
        "settings": peer.settings.format(slots=peer.fastest),
    }


def _noops(
    options: argparse.Namespace, pairs: Sequence[tuple[Peer, str]], server: str | None
) -> Section:
    """Measure all queues in each round, so that a busy minute of the machine affects each of them."""
    taken: dict[tuple[str, str], list[rounds.Round]] = {}
    notes: dict[tuple[str, str], str] = {}
    for number in range(1, options.repeat + 1):
        for peer, kind in pairs:
            key = peer.name, kind
            if key in notes:
                continue
            if (why := peer.missing()) is not None:
                notes[key] = why
                continue
            jobs = min(options.jobs, peer.most)
            progress(f"{peer.name} on {kind}: {jobs:,} jobs, {number} of {options.repeat}")
            try:
                done = rounds.noops(peer, kind, server, jobs)
                progress(f"    {done.drain:,.0f} jobs/s")
                taken.setdefault(key, []).append(done)
            except Exception as error:  # noqa: BLE001  (any error of another queue becomes a note)
                notes[key] = _short(error)
    rows = []
    for peer, kind in pairs:
        jobs = min(options.jobs, peer.most)
        rows.append(_noop_row(peer, kind, jobs, taken, notes))
    return Section("noops", "Jobs that do nothing, one consumer process", _NOOPS, rows)


def _noop_row(
    peer: Peer,
    kind: str,
    jobs: int,
    taken: Mapping[tuple[str, str], Sequence[rounds.Round]],
    notes: Mapping[tuple[str, str], str],
) -> dict[str, Any]:
    key = peer.name, kind
    mine = [] if key in notes else taken.get(key, [])
    # djjp does not run on Redis; on a single machine it would use SQLite instead.
    ours = taken.get(("djjp", "sqlite" if kind == "redis" else kind), [])
    rate = _rate([r.drain for r in mine])
    comparable = rate is not None and peer.name != "djjp" and len(ours) == len(mine)
    return {
        "queue": peer.name,
        "store": kind,
        "jobs": jobs,
        "one_by_one_per_second": _rate([r.one_by_one for r in mine]),
        "bulk_per_second": _rate([r.bulk for r in mine]),
        "jobs_per_second": rate,
        "ratio": Spread.of([r.drain for r in ours]).ratio(rate) if rate and comparable else None,
        "note": notes.get(key, ""),
    }


def _rate(samples: Sequence[float | None]) -> Spread | None:
    known = [sample for sample in samples if sample is not None]
    return Spread.of(known) if known else None


def _naps(
    options: argparse.Namespace, pairs: Sequence[tuple[Peer, str]], server: str | None
) -> Section:
    seconds = sleeps(options.naps, options.seed)
    least = ideal(seconds, _SLOTS)
    rows: list[dict[str, Any]] = []
    for peer, kind in pairs:
        took, note = None, peer.missing() or ""
        if not note:
            progress(f"{peer.name} on {kind}: {options.naps:,} naps, {least:.0f} s at best")
            try:
                took = rounds.naps(peer, kind, server, seconds, _SLOTS)
            except Exception as error:  # noqa: BLE001  (likewise)
                note = _short(error)
        rows.append(
            {
                "queue": peer.name,
                "store": kind,
                "jobs": options.naps,
                "slots": _SLOTS,
                "seconds": took,
                "ideal_seconds": least,
                "ratio": None if took is None else took / least,
                "note": note,
            }
        )
    return Section("naps", "Jobs that sleep 10 to 100 ms, one consumer process", _NAPS, rows)


def _short(error: Exception) -> str:
    text = str(error) if isinstance(error, rounds.Broken) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:200]


def _peer(name: str) -> Peer:
    peer: Peer = import_module(f"benchmarks.peers.{name}").PEER
    return peer


@contextmanager
def _server(kinds: Sequence[str]) -> Iterator[str | None]:
    """Yield the URL of a database on a PostgreSQL server; None if no store needs one."""
    with ExitStack() as stack:
        if "postgresql" not in kinds:
            yield None
            return
        home = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="djjp-peers-", ignore_cleanup_errors=True)
        )
        yield stack.enter_context(environment.postgresql(Path(home)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=main.__doc__)
    add = parser.add_argument
    others = PEERS[1:]
    add(
        "--only",
        type=some_of(others),
        default=others,
        help=f"queues beside djjp: some of {','.join(others)}",
    )
    add("--stores", type=some_of(_STORES), default=_STORES, help=f"some of {','.join(_STORES)}")
    add(
        "--jobs",
        type=count,
        default=20_000,
        help="jobs that do nothing; slow queues get fewer (20000)",
    )
    add("--naps", type=int, default=1_000, help="jobs that sleep; 0 for none (1000)")
    add("--repeat", type=count, default=3, help="rounds of jobs that do nothing (3)")
    add("--seed", type=int, default=1, help="seed of the sleeps (1)")
    add("--json", action="store_true", help="print JSON, and the tables to stderr")
    return parser


if __name__ == "__main__":
    # SIGTERM runs the cleanup, which stops the consumers: they would not end without it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    os.environ.pop("DJJP_DATABASE_URL", None)
    main()
