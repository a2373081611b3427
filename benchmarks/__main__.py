"""`python -m benchmarks`: what to measure, how often, and in which form to print it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from benchmarks import environment, report
from benchmarks.options import count, some_of

SECTIONS = ("table", "drain", "together", "pipelines", "enqueue", "crowd", "pickup")
# With --quick: rows of the table that cannot take less than so many seconds are left out.
_QUICK = 60.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print each table as soon as it is there; with --json everything at the end."""
    options = _parser().parse_args(arguments)
    with environment.made(options.databases):
        facts = environment.facts()
        if not options.json:
            print(report.header_of(facts), flush=True)
        sections = []
        for name, measure in _measures(options).items():
            if name in options.only:
                sections.append(measure())
                if not options.json:
                    print(f"\n{report.text_of(sections[-1])}", flush=True)
        if options.json:
            print(report.json_of(facts, sections))


def _measures(options: argparse.Namespace) -> dict[str, Callable[[], report.Section]]:
    # Django has to be set up before these are imported.
    from benchmarks import crowd, drain, enqueue, naps, pickup, pipelines, together

    databases, repeat, seed = options.databases, options.repeat, options.seed
    rows = [naps.Row(*row) for row in options.rows] or naps.ROWS
    longest = _QUICK if options.quick else None
    samples, idle = options.samples, options.idle_seconds
    measures = {
        "table": lambda: naps.measure(databases, rows, seed, longest),
        "drain": lambda: drain.measure(databases, options.drain_jobs, repeat),
        "together": lambda: together.measure(databases, options.drain_jobs, repeat),
        "pipelines": lambda: pipelines.measure(databases, options.pipelines, repeat),
        "enqueue": lambda: enqueue.measure(databases, options.enqueue_jobs, repeat),
        "crowd": lambda: crowd.measure(options.enqueue_jobs, repeat),
        "pickup": lambda: pickup.measure(databases, samples, idle, repeat, seed),
    }
    if "postgresql" not in databases:
        del measures["crowd"]
    return measures


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    add = parser.add_argument
    add("--only", type=some_of(SECTIONS), default=SECTIONS, help=f"of {','.join(SECTIONS)}")
    databases = environment.DATABASES
    add("--databases", type=some_of(databases), default=databases, help=f"of {','.join(databases)}")
    add("--json", action="store_true", help="print JSON only; progress goes to stderr in any case")
    add("--repeat", type=count, default=3, help="times that all but the table is measured (3)")
    add("--seed", type=int, default=1, help="of the sleeps and pauses (1)")

    table = parser.add_argument_group("table")
    table.add_argument("--rows", type=_rows, default=(), help="JOBSxTHREADS or JOBSxTASKSa, …")
    table.add_argument(
        "--quick", action="store_true", help=f"leave out rows of over {_QUICK:.0f} s at best"
    )
    others = parser.add_argument_group("drain, together, pipelines, enqueue, pickup").add_argument
    others("--drain-jobs", type=count, default=20_000, help="jobs to drain (20000)")
    others("--pipelines", type=count, default=1000, help="pipelines to drain (1000)")
    others("--enqueue-jobs", type=count, default=10_000, help="jobs to enqueue in each way (10000)")
    others("--samples", type=count, default=200, help="pickups to time (200)")
    others("--idle-seconds", type=float, default=5.0, help="how long idling is measured (5)")
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
