"""`python -m benchmarks.scale`: what a turn, an enqueue, the admin and a prune cost on a queue that is full.

Each is measured on 1,000 ready jobs, then on the filled queue, with the same number of samples; the ratio is
that of the medians.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from benchmarks import environment, report
from benchmarks.options import count, some_of
from benchmarks.report import Column, Section, Spread, progress

if TYPE_CHECKING:
    from benchmarks.filling import Size
    from djjp.claims import Claims

#: How many jobs a measured turn finishes and claims.
BATCH = 50
# Turns under an old snapshot carry more: it is the jobs that count, and nobody times these turns.
_MANY = 500

_COLUMNS = [
    Column("database", "database"),
    Column("what", "what"),
    Column("1,000 ready ms", "small_ms", ".3f"),
    Column("full ms", "full_ms", ".3f"),
    Column("ratio", "ratio", ".2f"),
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill a queue and measure what it costs, next to a queue of 1,000 ready jobs."""
    options = _parser().parse_args(arguments)
    os.environ["DJJP_BENCH_ADMIN"] = "1"
    with environment.made(options.databases):
        from django.core.management import call_command

        from benchmarks.filling import Size

        call_command("migrate", database="default", verbosity=0)
        size = Size(options.ready, options.finished, options.scheduled, options.queues)
        facts = environment.facts()
        rows: list[dict[str, Any]] = []
        for alias in options.databases:
            with environment.on(alias):
                rows += _measured(alias, size, options.samples, options.snapshot_jobs)
        section = Section("scale", f"Medians on {size}", _COLUMNS, rows)
        if options.json:
            print(report.json_of(facts, [section]))
        else:
            print(f"{report.header_of(facts)}\n\n{report.text_of(section)}")


def _measured(alias: str, size: Size, samples: int, snapshot_jobs: int) -> list[dict[str, Any]]:
    from benchmarks.filling import SMALL, fill
    from djjp.claims import queue

    measured: list[Mapping[str, Spread]] = []
    for number, this in enumerate((SMALL, size)):
        progress(f"scale: {alias}, {this}")
        environment.empty(alias)
        fill(queue(), this)
        progress("    filled")
        full = number == 1
        measured.append(_costs(queue(), this, samples, snapshot_jobs if full else 0))
    small, full_costs = measured
    rows = []
    for what, cost in full_costs.items():
        base = small.get(what, small["turn, all queues served"])
        row = {"database": alias, "what": what, "small_ms": base, "full_ms": cost}
        rows.append({**row, "ratio": cost.median / base.median})
    return rows


def _costs(queue: Claims, size: Size, samples: int, snapshot_jobs: int) -> dict[str, Spread]:
    """Milliseconds of everything that is measured, each `samples` times."""
    # On the small queue all but one of them are empty: it is the naming that costs the same.
    named = [f"q{number}" for number in range(100)]
    progress(f"    turns, {samples} of each kind")
    queue.listener()  # makes this connection a consumer's
    costs = {
        "turn, all queues served": _turns(queue, None, samples),
        "turn, one queue served": _turns(queue, named[:1], samples),
        "turn, 100 queues served": _turns(queue, named, samples),
    }
    queue.connection.close()
    progress("    enqueues, pages, prunes")
    costs["enqueue"] = _enqueues(queue, samples)
    costs["admin, first page"] = _pages(samples)
    costs["prune of 1,000"] = _prunes(queue, max(1, samples // 10))
    if snapshot_jobs:
        progress(f"    {snapshot_jobs:,} jobs under an open transaction")
        queue.listener()
        with _old_snapshot(queue):
            for _ in range(-(-snapshot_jobs // _MANY)):
                _turns(queue, None, 1, _MANY)
            what = f"turn, {snapshot_jobs:,} jobs after the start of an open transaction"
            costs[what] = _turns(queue, None, samples)
        queue.connection.close()
    return costs


def _turns(queue: Claims, served: Sequence[str] | None, samples: int, batch: int = BATCH) -> Spread:
    """A turn: finish the last batch, claim the next. As many jobs come in between, untimed."""
    from benchmarks.filling import CONSUMER, new, outcomes

    names = served or ["q0"]
    with queue.turn():
        held = queue.claim(CONSUMER, batch, time.time(), queues=served)

    def turn() -> None:
        nonlocal held
        with queue.turn():
            queue.finish(CONSUMER, ended)
            held = queue.claim(CONSUMER, batch, time.time(), queues=served)

    took = []
    for _ in range(samples):
        queue.enqueue_many([new(names[number % len(names)]) for number in range(batch)])
        ended = outcomes(held)
        took.append(_milliseconds(turn))
        if len(held) != batch:
            raise RuntimeError(f"a turn claimed {len(held)} of {batch} jobs")
    with queue.turn():
        queue.release(CONSUMER, held)
    return Spread.of(took)


def _enqueues(queue: Claims, samples: int) -> Spread:
    from benchmarks.jobs import noop

    noop.run_later(0)
    return Spread.of([_milliseconds(lambda: noop.run_later(1)) for _ in range(samples)])


def _pages(samples: int) -> Spread:
    """The admin's list of jobs, asked for as a browser does."""
    from django.contrib.auth import get_user_model
    from django.test import Client

    users: Any = get_user_model()._default_manager
    user = users.filter(username="reader").first() or users.create_superuser("reader")
    client = Client()
    client.force_login(user)

    def page() -> None:
        answer = client.get("/admin/djjp/job/")
        if answer.status_code != 200:
            raise RuntimeError(f"the admin answered {answer.status_code}")

    page()
    return Spread.of([_milliseconds(page) for _ in range(samples)])


def _prunes(queue: Claims, samples: int) -> Spread:
    """One portion of a prune; where there is nothing finished, as many are first."""
    from benchmarks.filling import CONSUMER, new, outcomes
    from djjp.models import FINISHED, Job, State

    took = []
    for _ in range(samples):
        if Job.objects.filter(state=State.SUCCEEDED)[:1000].count() < 1000:
            queue.enqueue_many([new("q0") for _ in range(1000)])
            with queue.turn():
                claimed = queue.claim(CONSUMER, 1000, time.time())
            with queue.turn():
                queue.finish(CONSUMER, outcomes(claimed))
        took.append(_milliseconds(lambda: queue.prune(FINISHED, time.time() + 60, None, 1000)))
    return Spread.of(took)


@contextmanager
def _old_snapshot(queue: Claims) -> Iterator[None]:
    """A transaction in the queue's database that sees it as it is now, for as long as the block runs."""
    if queue.connection.vendor == "sqlite":
        with closing(sqlite3.connect(queue.connection.settings_dict["NAME"])) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT 1 FROM djjp_job LIMIT 1").fetchone()
            yield
        return
    import psycopg

    with psycopg.connect(os.environ["DJJP_BENCH_POSTGRES_URL"]) as server:
        server.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        server.execute("SELECT 1 FROM djjp_job LIMIT 1").fetchone()
        yield


def _milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=main.__doc__)
    add = parser.add_argument
    databases = environment.DATABASES
    add("--databases", type=some_of(databases), default=databases, help=f"of {','.join(databases)}")
    add("--ready", type=count, default=1_000_000, help="ready jobs (1000000)")
    add("--finished", type=int, default=5_000_000, help="finished jobs (5000000)")
    add("--scheduled", type=int, default=100_000, help="scheduled jobs (100000)")
    add("--queues", type=count, default=1_000, help="queues that they are in (1000)")
    add("--samples", type=count, default=100, help="times that each thing is measured (100)")
    add(
        "--snapshot-jobs",
        type=int,
        default=200_000,
        help="jobs run while a transaction is open, before turns are measured; 0 for none (200000)",
    )
    add("--json", action="store_true", help="print JSON only")
    return parser


if __name__ == "__main__":
    main()
