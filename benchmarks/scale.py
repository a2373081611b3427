"""`python -m benchmarks.scale`: the cost of a turn, an enqueue, the admin, a prune and of lists on a full queue.

Samples are taken alternately on a queue of 1,000 ready jobs and on a full one, so that other work on the machine
affects both. The ratio is the median of the samples' own ratios.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

import benchmarks.dashboards
import benchmarks.facts
import benchmarks.pages
from benchmarks import environment, report
from benchmarks.options import count, some_of
from benchmarks.report import Column, Section, Spread, progress

if TYPE_CHECKING:
    from benchmarks.filling import Size
    from djjp.engine import Engine

#: The number of jobs that a measured turn finishes and claims.
BATCH = 50
# Turns under an old snapshot carry more jobs, because only the number of jobs matters and they are not timed.
_MANY = 500

#: Takes one sample, in milliseconds, at each call.
_Measure = AbstractContextManager[Callable[[], float]]

_COLUMNS = [
    Column("database", "database"),
    Column("what", "what"),
    Column("1,000 ready ms", "small_ms", ".3f"),
    Column("full ms", "full_ms", ".3f"),
    Column("ratio", "ratio", ".2f"),
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill a queue, and measure its costs next to those of a queue of 1,000 ready jobs."""
    options = _parser().parse_args(arguments)
    os.environ["DJJP_BENCH_ADMIN"] = "1"
    with environment.made(options.databases):
        from django.core.management import call_command

        from benchmarks.filling import Size

        call_command("migrate", database="default", verbosity=0)
        size = Size(options.ready, options.finished, options.scheduled, options.queues)
        facts = environment.facts()
        rows: list[dict[str, Any]] = []
        lists: list[dict[str, Any]] = []
        pages: list[dict[str, Any]] = []
        opened: list[dict[str, Any]] = []
        for alias in options.databases:
            if options.dashboards:
                with environment.on(alias):
                    opened.append(
                        benchmarks.dashboards.measure(
                            alias,
                            options.dashboards,
                            options.drained,
                            max(2, options.samples // 20),
                        )
                    )
            if options.dashboards_only:
                continue
            with environment.beside(alias) as beside:
                _fill(alias, beside, size)
                few = max(2, options.samples // 20)
                with environment.on(alias):
                    progress("    pages")
                    pages += benchmarks.pages.measure(alias, few)
                    if not options.pages_only:
                        progress("    facts")
                        lists += benchmarks.facts.measure(alias, few)
                if not (options.facts_only or options.pages_only):
                    rows += _measured(_Pair(beside, alias, options.samples), options.snapshot_jobs)
        sections = [
            Section("scale", f"Medians on {size}", _COLUMNS, rows),
            Section("facts", f"Facts on {size}", benchmarks.facts.COLUMNS, lists),
            Section("pages", f"Pages of the admin on {size}", benchmarks.pages.COLUMNS, pages),
            Section(
                "dashboards",
                f"A drain of {options.drained:,} jobs beside open dashboards",
                benchmarks.dashboards.COLUMNS,
                opened,
            ),
        ]
        report.publish(facts, [each for each in sections if each.rows], as_json=options.json)


def _fill(alias: str, beside: str, size: Size) -> None:
    from benchmarks.filling import SMALL, fill
    from djjp.engine import current

    for this_alias, this_size in ((beside, SMALL), (alias, size)):
        progress(f"scale: {alias}, {this_size}")
        with environment.on(this_alias):
            environment.empty(this_alias)
            fill(current(), this_size)


def _measured(pair: _Pair, snapshot_jobs: int) -> list[dict[str, Any]]:
    from djjp.engine import current

    _, alias = pair.aliases
    # On the small queue all of them except one are empty; naming them costs the same.
    named = [f"q{number}" for number in range(100)]
    progress(f"    turns, {pair.samples} of each kind")
    with _consumers(pair):
        pair.compare("turn, all queues served", lambda: _turns(None))
        pair.compare("turn, one queue served", lambda: _turns(named[:1]))
        pair.compare("turn, 100 queues served", lambda: _turns(named))
    progress("    enqueues, pages, prunes")
    pair.compare("enqueue", _enqueues)
    pair.compare("admin, first page", _pages)
    pair.compare("prune of 1,000", _prunes, max(1, pair.samples // 10))
    if snapshot_jobs:
        progress(f"    {snapshot_jobs:,} jobs under an open transaction")
        with _consumers(pair), environment.on(alias), _old_snapshot(current()):
            with _turns(None, _MANY) as turn:
                for _ in range(-(-snapshot_jobs // _MANY)):
                    turn()
            what = f"turn, {snapshot_jobs:,} jobs after the start of an open transaction"
            pair.compare(what, lambda: _turns(None))
    return [{"database": alias, **row} for row in pair.rows]


class _Pair:
    """The aliases of the small queue and of the full one, and the rows of their comparison."""

    def __init__(self, small: str, full: str, samples: int) -> None:
        self.aliases = (small, full)
        self.rows: list[dict[str, Any]] = []
        self.samples = samples

    def compare(self, what: str, make: Callable[[], _Measure], samples: int | None = None) -> None:
        """Take samples of the measure that `make` returns, on both queues in turn."""
        took: dict[str, list[float]] = {alias: [] for alias in self.aliases}
        with ExitStack() as stack:
            measures = {}
            for alias in self.aliases:
                with environment.on(alias):
                    measures[alias] = stack.enter_context(make())
            for _ in range(samples or self.samples):
                for alias, measure in measures.items():
                    with environment.on(alias):
                        took[alias].append(measure())
        small, full = (Spread.of(took[alias]) for alias in self.aliases)
        row = {"what": what, "small_ms": small, "full_ms": full}
        self.rows.append({**row, "ratio": full.ratio(small).median})


@contextmanager
def _consumers(pair: _Pair) -> Iterator[None]:
    """Open the connections to both queues as consumers do."""
    from djjp.engine import current

    queues = []
    for alias in pair.aliases:
        with environment.on(alias):
            queues.append(current())
            queues[-1].db.listener()
    yield
    for each in queues:
        each.db.connection.close()


@contextmanager
def _turns(served: Sequence[str] | None, batch: int = BATCH) -> Iterator[Callable[[], float]]:
    """Yield a function that times a turn: finish the last batch, claim the next. Enqueueing is not timed."""
    from benchmarks.filling import CONSUMER, new, outcomes
    from djjp.engine import current

    engine, names = current(), served or ["q0"]
    with engine.db.transaction():
        held = engine.jobs.claim(CONSUMER, batch, time.time(), queues=served)

    def turn() -> float:
        nonlocal held
        engine.jobs.enqueue_many([new(names[number % len(names)]) for number in range(batch)])
        ended = outcomes(held)
        began = time.perf_counter()
        with engine.db.transaction():
            engine.jobs.finish(CONSUMER, ended)
            held = engine.jobs.claim(CONSUMER, batch, time.time(), queues=served)
        took = (time.perf_counter() - began) * 1000
        if len(held) != batch:
            raise RuntimeError(f"a turn claimed {len(held)} of {batch} jobs")
        return took

    yield turn
    with engine.db.transaction():
        engine.jobs.release(CONSUMER, held)


@contextmanager
def _enqueues() -> Iterator[Callable[[], float]]:
    from benchmarks.jobs import noop

    noop.run_later(0)
    yield lambda: _milliseconds(lambda: noop.run_later(1))


@contextmanager
def _pages() -> Iterator[Callable[[], float]]:
    """Yield a function that times a request of the admin's list of jobs, as a browser makes it."""
    client = benchmarks.pages.reader()

    def page() -> None:
        answer = client.get("/admin/djjp/job/")
        if answer.status_code != 200:
            raise RuntimeError(f"the admin answered {answer.status_code}")

    page()
    yield lambda: _milliseconds(page)


@contextmanager
def _prunes() -> Iterator[Callable[[], float]]:
    """Yield a function that times a step of a prune; if too few jobs are finished, jobs are run before it."""
    from benchmarks.filling import CONSUMER, new, outcomes
    from djjp.engine import current
    from djjp.models import FINISHED, Job, State

    engine = current()

    def prune() -> float:
        if Job.objects.filter(state=State.SUCCEEDED)[:1000].count() < 1000:
            engine.jobs.enqueue_many([new("q0") for _ in range(1000)])
            with engine.db.transaction():
                claimed = engine.jobs.claim(CONSUMER, 1000, time.time())
            with engine.db.transaction():
                engine.jobs.finish(CONSUMER, outcomes(claimed))
        return _milliseconds(lambda: engine.pruning.prune(FINISHED, time.time() + 60, None, 1000))

    yield prune


@contextmanager
def _old_snapshot(engine: Engine) -> Iterator[None]:
    """Hold a transaction open in the queue's database during the block, with a snapshot of its present state."""
    if engine.db.connection.vendor == "sqlite":
        with closing(sqlite3.connect(engine.db.connection.settings_dict["NAME"])) as reader:
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
    add(
        "--databases",
        type=some_of(databases),
        default=databases,
        help=f"some of {','.join(databases)}",
    )
    add("--ready", type=count, default=1_000_000, help="ready jobs (1000000)")
    add("--finished", type=int, default=5_000_000, help="finished jobs (5000000)")
    add("--scheduled", type=int, default=100_000, help="scheduled jobs (100000)")
    add("--queues", type=count, default=1_000, help="queues over which the jobs are spread (1000)")
    add("--samples", type=count, default=100, help="samples of each figure (100)")
    add(
        "--snapshot-jobs",
        type=int,
        default=200_000,
        help="jobs run while a transaction is open, before turns are measured; 0 for none (200000)",
    )
    add("--facts-only", action="store_true", help="measure lists, pages and other facts only")
    add("--pages-only", action="store_true", help="measure the pages of the admin only")
    add(
        "--dashboards", type=int, default=50, help="open dashboards beside a drain; 0 for none (50)"
    )
    add("--dashboards-only", action="store_true", help="measure drains beside dashboards only")
    add("--drained", type=count, default=50_000, help="jobs of such a drain (50000)")
    add("--json", action="store_true", help="print JSON, and the tables to stderr")
    return parser


if __name__ == "__main__":
    main()
