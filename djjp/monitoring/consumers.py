"""The consumers: which are alive, what they serve and run, and how full they are."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from django.db.models import Value
from django.db.models.functions import StrIndex

from djjp import conf, engine
from djjp.durations import seconds, to_datetime, to_seconds
from djjp.engine import Engine, Liveness, Peer
from djjp.engine.consumers import Held, beat_every
from djjp.jobs import registry
from djjp.jsontext import texts
from djjp.models import Consumer, Job
from djjp.served import serves

#: The number of heartbeats in succession that a consumer must miss to count as silent.
_MISSED_BEATS = 3


class Life(StrEnum):
    """The signs of life of a consumer."""

    ALIVE = "alive"
    SILENT = (
        "silent"  # its process exists and sends no heartbeats: it is frozen, or a job blocks it
    )
    DEAD = "dead"  # it has lost its locks, or sends no heartbeats: its jobs are rescued soon


class RunningJobs(NamedTuple):
    """Jobs of one name that a consumer runs, or that it has claimed ahead."""

    name: str
    jobs: int
    since: datetime


class ConsumerInfo(NamedTuple):
    """A consumer that is registered: alive, or not yet declared dead.

    Attributes:
        queues: the queues that it serves, as names and patterns; None for all.
        limit: the number of its slots.
        runs: the jobs that run, oldest start first.
        ahead: the jobs that it has claimed ahead: they wait for its slots.
        heartbeat_age: the seconds since its last heartbeat.
        release: `DJJP["release"]` of its process; "" without.
        quiet: whether it was requested to claim no further jobs.
        concurrency: "threads" or "asyncio".
    """

    name: str
    queues: list[str] | None
    limit: int
    started_at: datetime
    heartbeat_at: datetime
    runs: list[RunningJobs]
    ahead: list[RunningJobs]
    heartbeat_age: float
    life: Life
    release: str
    quiet: bool
    concurrency: str

    @property
    def busy(self) -> int:
        """The number of slots with a job."""
        return sum(each.jobs for each in self.runs)

    @property
    def claimed_ahead(self) -> int:
        """The number of jobs that are claimed ahead."""
        return sum(each.jobs for each in self.ahead)

    @property
    def is_full(self) -> bool:
        """True if all slots are busy."""
        return self.busy >= self.limit

    def serves(self, queue: str) -> bool:
        """Return whether it serves a queue."""
        return serves(self.queues, queue)


def consumers() -> list[ConsumerInfo]:
    """Return the consumers, ordered by name, with the jobs that they hold.

    Raises:
        QueueUnavailable: the queue's database does not answer.
    """
    return engine.run(lambda engine: [info for info, _ in read(engine)])


def read(engine: Engine, jobs: Sequence[str] = ()) -> list[tuple[ConsumerInfo, list[str]]]:
    """Return the consumers, each with the names among these that it knows; three statements at most.

    Args:
        jobs: names of jobs. Those of a consumer can be many, so that the database searches them.
    """
    # As a JSON list has it. A consumer without a list, of a row by hand, can know any job.
    places = {
        f"at{number}": StrIndex("names", Value(json.dumps(job))) for number, job in enumerate(jobs)
    }
    rows = list(
        Consumer.objects.using(engine.db.alias)
        .annotate(**places)
        .order_by("pk")
        .values(
            *("name", "queues", "concurrency", "concurrency_limit", "started_at", "heartbeat_at"),
            *("locked", "release", "quiet", *places),
        )
    )
    if not rows:
        return []
    now, settings = time.time(), conf.current()
    ages = {row["name"]: max(0.0, now - to_seconds(row["heartbeat_at"])) for row in rows}
    peers = [Peer(row["name"], to_seconds(row["heartbeat_at"]), row["locked"]) for row in rows]
    liveness = engine.consumers.liveness_of(peers)
    silent = _MISSED_BEATS * beat_every(settings)
    limit = max(silent, seconds("heartbeat_limit", settings.heartbeat_limit))
    held: dict[tuple[str, bool], list[Held]] = defaultdict(list)
    for each in engine.consumers.held():
        held[each.consumer, each.is_ahead].append(each)
    return [
        (
            ConsumerInfo(
                row["name"],
                None if row["queues"] is None else texts(row["queues"]) or [],
                row["concurrency_limit"] or 0,
                row["started_at"],
                row["heartbeat_at"],
                _running(held[row["name"], False]),
                _running(held[row["name"], True]),
                ages[row["name"]],
                _life(liveness[row["name"]], ages[row["name"]], silent, limit),
                row["release"],
                row["quiet"],
                row["concurrency"],
            ),
            [job for job, at in zip(jobs, places, strict=True) if row[at] is None or row[at] > 0],
        )
        for row in rows
    ]


def _life(liveness: Liveness, age: float, silent: float, limit: float) -> Life:
    """Return the signs of life.

    Args:
        age: the seconds since its last heartbeat, by this machine's clock.
        silent: the age from which a consumer counts as silent.
        limit: the age from which a consumer without a lock counts as dead.
    """
    if liveness in (Liveness.ENDED, Liveness.CUT_OFF):
        return Life.DEAD
    if liveness is Liveness.UNKNOWN and age >= limit:
        return Life.DEAD
    return Life.ALIVE if age < silent else Life.SILENT


def _running(held: Iterable[Held]) -> list[RunningJobs]:
    """Return jobs that a consumer holds, those that it has held for longest first."""
    by_age = sorted(held, key=lambda each: each.since)
    return [RunningJobs(each.name, each.jobs, to_datetime(each.since)) for each in by_age]


# One consumer


def jobs_of(name: str, limit: int = 200) -> list[Job]:
    """Return the jobs that a consumer holds, without arguments and results, in the order in which it starts them.

    Those beyond its slots are claimed ahead.
    """

    def verb(engine: Engine) -> list[Job]:
        ids = engine.consumers.held_by(name, limit)
        rows = Job.objects.using(engine.db.alias).filter(pk__in=ids).defer("arguments", "result")
        by_id = {job.pk: job for job in rows.order_by()}
        return [by_id[id] for id in ids if id in by_id]

    return engine.run(verb)


def names_missing(name: str) -> list[str] | None:
    """Return the job names that another consumer, or this process, knows and a consumer does not.

    Jobs of these names wait for another consumer, also in queues that this one serves. None if its row has no
    names.
    """

    def verb(engine: Engine) -> list[str] | None:
        rows = Consumer.objects.using(engine.db.alias)
        lists = {key: texts(text) for key, text in rows.values_list("pk", "names")}
        mine = lists.pop(name, None)
        if mine is None:
            return None
        others = [each for each in lists.values() if each is not None]
        return sorted({*registry.names()}.union(*others) - {*mine})

    return engine.run(verb)
