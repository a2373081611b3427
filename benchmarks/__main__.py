"""`python -m benchmarks`: the options: which tables, how many repeats, text or JSON."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib.util import find_spec

from benchmarks import environment, report
from benchmarks.options import count, some_of

SECTIONS = (
    "table",
    "drain",
    "totals",
    "together",
    "pipelines",
    "enqueue",
    "crowd",
    "http",
    "instruments",
    "pickup",
)
# With --quick, rows of `table` whose ideal is more seconds than this are omitted.
_QUICK = 60.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print each table as soon as it is complete; with --json, print JSON at the end."""
    options = _parser().parse_args(arguments)
    with environment.made(options.databases):
        facts = environment.facts()
        chosen = (measure for name, measure in _measures(options).items() if name in options.only)
        report.publish(facts, (measure() for measure in chosen), as_json=options.json)


def _measures(options: argparse.Namespace) -> dict[str, Callable[[], report.Section]]:
    # These modules can be imported only after Django is set up.
    from benchmarks import (
        crowd,
        drain,
        enqueue,
        http,
        instruments,
        naps,
        pickup,
        pipelines,
        together,
        totals,
    )

    databases, repeat, seed = options.databases, options.repeat, options.seed
    rows = [naps.Row(*row) for row in options.rows] or naps.ROWS
    longest = _QUICK if options.quick else None
    samples, idle = options.samples, options.idle_seconds
    measures = {
        "table": lambda: naps.measure(databases, rows, seed, longest),
        "drain": lambda: drain.measure(databases, options.drain_jobs, repeat),
        "totals": lambda: totals.measure(databases, options.drain_jobs, repeat),
        "together": lambda: together.measure(databases, options.drain_jobs, repeat),
        "pipelines": lambda: pipelines.measure(databases, options.pipelines, repeat),
        "enqueue": lambda: enqueue.measure(databases, options.enqueue_jobs, repeat),
        "crowd": lambda: crowd.measure(options.enqueue_jobs, repeat),
        "http": lambda: http.measure(databases, options.http_requests, repeat),
        "instruments": lambda: instruments.measure(databases, options.instrumented_jobs, repeat),
        "pickup": lambda: pickup.measure(databases, samples, idle, repeat, seed),
    }
    if "postgresql" not in databases:
        del measures["crowd"]
    if find_spec("gunicorn") is None:
        del measures["http"]
    return measures


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    add = parser.add_argument
    add("--only", type=some_of(SECTIONS), default=SECTIONS, help=f"some of {','.join(SECTIONS)}")
    databases = environment.DATABASES
    add(
        "--databases",
        type=some_of(databases),
        default=databases,
        help=f"some of {','.join(databases)}",
    )
    add("--json", action="store_true", help="print JSON, and the tables to stderr")
    add(
        "--repeat",
        type=count,
        default=3,
        help="repeats of each measurement except those of `table` (3)",
    )
    add("--seed", type=int, default=1, help="seed of the sleeps and pauses (1)")

    table = parser.add_argument_group("table")
    table.add_argument("--rows", type=_rows, default=(), help="JOBSxTHREADS or JOBSxTASKSa, …")
    table.add_argument(
        "--quick", action="store_true", help=f"omit rows that take more than {_QUICK:.0f} s at best"
    )
    others = parser.add_argument_group(
        "drain, totals, together, pipelines, enqueue, http, instruments, pickup"
    ).add_argument
    others("--drain-jobs", type=count, default=20_000, help="jobs to drain (20000)")
    others("--pipelines", type=count, default=1000, help="pipelines to drain (1000)")
    others(
        "--enqueue-jobs", type=count, default=10_000, help="jobs for each way to enqueue (10000)"
    )
    others("--http-requests", type=count, default=1000, help="requests for each way (1000)")
    others("--instrumented-jobs", type=count, default=3000, help="jobs for each instrument (3000)")
    others("--samples", type=count, default=200, help="pickups to time (200)")
    others(
        "--idle-seconds",
        type=float,
        default=5.0,
        help="seconds for which an idle consumer is measured (5)",
    )
    return parser


def _rows(text: str) -> list[tuple[int, int, str]]:
    rows = []
    for part in text.split(","):
        jobs, _, slots = part.partition("x")
        kind = "asyncio" if slots.endswith("a") else "threads"
        try:
            rows.append((count(jobs), count(slots.removesuffix("a")), kind))
        except ValueError:
            form = "of the form 100x1,1000x50,1000x500a"
            raise argparse.ArgumentTypeError(f"{text!r} is not {form}") from None
    return rows


if __name__ == "__main__":
    main()
