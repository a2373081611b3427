"""The table `facts`: the time for lists and other facts on a full queue, each less than 300 ms."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from benchmarks.report import Column, Spread, progress

COLUMNS = [
    Column("database", "database"),
    Column("what", "what"),
    Column("found", "found", ",d"),
    Column("of", "of"),
    Column("ms", "ms", ".1f"),
    Column("longest ms", "longest_ms", ".1f"),
]

#: Filters of one key, and of two.
SINGLE = [
    *("queue:q7", "queue:nowhere", "name:shop.job7", "name:*.job77?", "name:nothing.*"),
    *("exception:Error24", "exception:shop.errors.Error24", "exception:Nothing"),
    *(
        "tag:billing",
        "tag:tenant-3",
        "tag:nothing",
        "since:90m",
        "until:90m",
        "pipeline:{pipeline}",
    ),
    *("consumer:host:7:x", "consumer:nobody", "unique_key:key70", "unique_key:nothing"),
    *("attempts:3", "attempts:>100"),
]
PAIRS = [
    "state:failed queue:q7",
    "state:failed name:shop.job7",
    "state:ready queue:q7",
    "state:succeeded tag:tenant-3",
    "state:scheduled name:nothing.*",
    "exception:Error24 queue:q50",
    "tag:billing attempts:>3",
    "name:shop.job77* consumer:host:7:x",
    "queue:q7 since:1h",
    "tag:tenant-3 state:failed",
    "pipeline:{pipeline} attempts:1",
    "unique_key:key70 queue:q7",
]


class Fact(NamedTuple):
    """A call to measure; it returns the number of what it has found, and whether this is all."""

    what: str
    call: Callable[[], tuple[int, bool]]


def measure(alias: str, samples: int) -> list[dict[str, Any]]:
    """Return a row for each fact on the queue of this alias."""
    return [_row(alias, fact, samples) for fact in facts()]


def _row(alias: str, fact: Fact, samples: int) -> dict[str, Any]:
    took, found, is_all = [], 0, True
    for _ in range(samples):
        began = time.perf_counter()
        found, is_all = fact.call()
        took.append((time.perf_counter() - began) * 1000)
    of = "all" if is_all else "a part"
    progress(
        f"    {fact.what}: {found:,} of {of}, {statistics.median(took):.1f} ms, {max(took):.1f} at most"
    )
    return {
        "database": alias,
        "what": fact.what,
        "found": found,
        "of": of,
        "ms": Spread.of(took),
        "longest_ms": max(took),
    }


def facts() -> Iterator[Fact]:
    """Yield the facts to measure."""
    from djjp.models import State

    pipeline = pipeline_id()
    for text in ["", *(f"state:{state}" for state in State), *SINGLE, *PAIRS]:
        yield Fact(text or "all jobs", partial(_list, text.format(pipeline=pipeline)))
    for text in ("", "state:failed", "state:ready", "tag:billing"):
        yield Fact(f"count {text}".rstrip(), partial(_count, text))
        yield Fact(f"walk {text}".rstrip(), partial(_walk, text))
    for text in ("", "name:shop.job7", "exception:Nothing"):
        yield Fact(f"failures {text}".rstrip(), partial(_failures, text))
    for state in State:
        yield Fact(f"explain, {state}", partial(_explain, newest_of(state)))
    yield from _commands(
        "status",
        "stats",
        "stats --since 24h --by name",
        "queues",
        "consumers",
        "incidents",
        "operations",
    )


def _list(text: str) -> tuple[int, bool]:
    from djjp.monitoring import Filter, find

    page = find(Filter.parse(text))
    return len(page.jobs), page.looked_back_to is None


def _count(text: str) -> tuple[int, bool]:
    from djjp.monitoring import Filter, count

    return count(Filter.parse(text))


def _walk(text: str) -> tuple[int, bool]:
    from djjp.monitoring import Filter, walk

    step = walk(Filter.parse(text))
    return len(step.ids), step.reached is None


def _failures(text: str) -> tuple[int, bool]:
    from djjp.monitoring import Filter, failures

    found = failures(Filter.parse(text))
    return sum(group.count for group in found.groups), found.looked_back_to is None


def _explain(id: UUID) -> tuple[int, bool]:
    from djjp.monitoring import explain

    return len(explain(id).causes), True


def newest_of(state: str) -> UUID:
    """Return the id of the newest job in a state."""
    from djjp.monitoring import latest_jobs

    id: UUID = latest_jobs(state=state, limit=1)[0].pk
    return id


def _commands(*commands: str) -> Iterator[Fact]:
    """Yield the facts of commands, in this process."""
    for command in commands:
        yield Fact(f"djjp {command}", partial(_run, command))


def _run(command: str) -> tuple[int, bool]:
    """Return the number of lines that a command prints."""
    from django.core.management import call_command

    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        call_command("djjp", *command.split())
    return printed.getvalue().count("\n"), True


def pipeline_id() -> str:
    """Return the id of the newest pipeline."""
    from djjp.models import Job

    jobs = Job.objects.filter(pipeline__isnull=False).order_by("-pipeline")
    return str(jobs.values_list("pipeline", flat=True).first())
