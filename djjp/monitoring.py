"""Counts of jobs, consumers with their running jobs, and the latest jobs."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import datetime
from typing import NamedTuple

from django.db.models import Count, Min

from djjp import engine
from djjp.engine import Engine
from djjp.models import Consumer, Job, State


class RunningJobs(NamedTuple):
    """Jobs of one name that a consumer holds: running jobs, and jobs that it has claimed ahead."""

    name: str
    jobs: int
    since: datetime


class ConsumerInfo(NamedTuple):
    """A consumer that is registered: alive, or not yet found dead."""

    name: str
    queues: list[str] | None
    limit: int
    started_at: datetime
    heartbeat_at: datetime
    runs: list[RunningJobs]


def counts() -> dict[str, dict[State, int]]:
    """Return the number of jobs in each queue by state; every row of the queue is read once."""
    rows = engine.run(
        lambda engine: list(
            Job.objects.using(engine.db.alias)
            .order_by()
            .values_list("queue", "state")
            .annotate(Count("pk"))
        )
    )
    found: dict[str, dict[State, int]] = {}
    for name, state, count in sorted(rows):
        found.setdefault(name, {})[State(state)] = count
    return found


def consumers() -> list[ConsumerInfo]:
    """Return the consumers, ordered by name, with their running jobs."""
    return engine.run(_consumers)


def _consumers(engine: Engine) -> list[ConsumerInfo]:
    runs: dict[str | None, list[RunningJobs]] = defaultdict(list)
    running = Job.objects.using(engine.db.alias).filter(state=State.RUNNING).order_by()
    rows = running.values_list("consumer", "name").annotate(Count("pk"), Min("started_at"))
    for consumer, name, count, since in sorted(rows):
        runs[consumer].append(RunningJobs(name, count, since))
    return [
        ConsumerInfo(
            row.name,
            None if row.queues is None else json.loads(row.queues),
            row.concurrency_limit,
            row.started_at,
            row.heartbeat_at,
            runs[row.name],
        )
        for row in Consumer.objects.using(engine.db.alias).order_by("pk")
    ]


def latest_jobs(
    *, state: str | None = None, queue: str | None = None, name: str | None = None, limit: int
) -> list[Job]:
    """Return the newest matching jobs, without their arguments and results."""
    wanted = {"state": state, "queue": queue, "name": name}
    given = {field: value for field, value in wanted.items() if value is not None}
    return engine.run(
        lambda engine: list(
            Job.objects.using(engine.db.alias)
            .filter(**given)
            .defer("arguments", "result")
            .order_by("-pk")[:limit]
        )
    )
