"""Conditions: what is wrong with the queue now, as its tables show it, in a bounded number of statements.

None of them reads the table of jobs beyond the first jobs of each queue and limit. What only a consumer can see
(a blocked loop, a clock, wake-ups, an outbox) it reports itself: see `djjp.consumer.observations`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from djjp import conf, schedules
from djjp.bounds import one_line
from djjp.durations import seconds, to_seconds
from djjp.engine import Engine
from djjp.engine.incidents import Found
from djjp.engine.rows import Key
from djjp.engine.tiles import Tile
from djjp.engine.waits import Wait
from djjp.jobs import registry
from djjp.jsontext import texts
from djjp.models import Consumer, Depth, Schedule, Source, Span
from djjp.monitoring.slots import held_slots
from djjp.served import Servers

#: Seconds for which the oldest job of a queue must have waited until its missing consumer counts.
UNSERVED_FOR = 5.0
#: Seconds since the last heartbeat of any consumer until its running jobs count: it may be restarted at once.
LEFT_FOR = 10.0
#: Seconds by which the clock of a machine can differ from that of the queue's database.
SKEW = 2.0
#: Seconds back from now that "failing", "late_results" and "backlog" consider.
WINDOW = 300
#: The number of ends from which a name can count as failing, and the part of them that must have failed.
FAILING_ENDS, FAILING_PART = 10, 0.5
#: Seconds that the drain of a growing queue must take.
LONG_DRAIN = 900
#: The number of incidents of one kind that a look opens, and of rows that it reads of totals.
MOST, MOST_TOTALS = 100, 20_000
#: The number of jobs up to which those of a queue without a consumer are counted.
MOST_COUNTED = 1001
#: The number of limits of which a look reads who holds their permits.
MOST_LIMITS = 20
# The characters of a problem that are kept.
_LONGEST = 500


class Server(NamedTuple):
    """A consumer, by what it serves.

    Attributes:
        queues: as its row has them; None for all.
        names: the jobs that it knows; None if that is not known.
        heartbeat: the time of its last heartbeat, by its own clock.
        slots: the number of jobs that it runs at a time.
    """

    name: str
    host: str
    heartbeat: float
    queues: list[str] | None
    names: frozenset[str] | None
    is_quiet: bool
    slots: int = 0


def servers(engine: Engine) -> list[Server]:
    """Return the consumers that have a row."""
    columns = ("pk", "host", "heartbeat_at", "queues", "names", "quiet", "concurrency_limit")
    rows = Consumer.objects.using(engine.db.alias).values_list(*columns)
    found = []
    for name, host, at, served, names, quiet, slots in rows:
        known = texts(names)
        knows = None if known is None else frozenset(known)
        each = Server(name, host, to_seconds(at), texts(served), knows, bool(quiet), slots or 0)
        found.append(each)
    return found


def skewed(engine: Engine, consumers: Sequence[Server], now: float) -> list[Found]:
    """Return the hosts whose consumers have sent heartbeats from the future."""
    if not any(each.heartbeat > now + SKEW for each in consumers):
        return []
    now = engine.db.clock()  # a moment has passed
    return [
        clock_skew(each.host, each.heartbeat - now, each.name)
        for each in consumers
        if each.heartbeat > now + SKEW
    ][:MOST]


def clock_skew(host: str, ahead: float, consumer: str) -> Found:
    """Return the incident of a clock."""
    facts = {"seconds": round(ahead, 1), "other": "the queue's database", "consumer": consumer}
    return Found("clock_skew", host, facts)


# Ready jobs


class QueueWait(NamedTuple):
    """The longest known wait of a queue: its jobs can have waited for longer, unless it is exact.

    Attributes:
        first: the job that is claimed next at the priority at which a job has waited for this long.
    """

    seconds: float
    is_exact: bool
    first: Key | None = None


class Waits:
    """For how long the jobs of each queue have waited, as one process sees it look after look.

    Of a job that became ready at a time that no row has, it counts from the look that has found it first.
    """

    def __init__(self) -> None:
        self._first_seen: dict[object, float] = {}

    def read(self, heads: Sequence[Wait], now: float) -> dict[str, QueueWait]:
        """Return the waits of the queues that have ready jobs, of which these are the first ones."""
        self._first_seen = {each.first: self._first_seen.get(each.first, now) for each in heads}
        waits: dict[str, QueueWait] = {}
        for each in heads:
            since = min(now if each.since is None else each.since, self._first_seen[each.first])
            before = waits.get(each.queue, QueueWait(0.0, is_exact=True))
            is_longer = before.first is None or now - since > before.seconds
            waits[each.queue] = QueueWait(
                max(before.seconds, now - since),
                before.is_exact and each.since is not None,
                each.first if is_longer else before.first,
            )
        return waits

    def clear(self) -> None:
        """Forget what was seen: the queue's database was away."""
        self._first_seen.clear()


def unserved(
    engine: Engine, waits: Mapping[str, QueueWait], consumers: Sequence[Server], now: float
) -> list[Found]:
    """Return the queues with due jobs that no consumer serves."""
    young = {q for q, wait in waits.items() if wait.is_exact and wait.seconds < UNSERVED_FOR}
    due = {*waits, *engine.queues.with_suspects()} - young
    left = [] if consumers else [each.heartbeat for each in servers(engine)]
    running = engine.waits.running(MOST_COUNTED) if left and max(left) < now - LEFT_FOR else {}
    if (
        not consumers
    ):  # nobody makes the scheduled jobs ready, or rescues those that ran on dead consumers
        due.update(engine.waits.due_queues(now - UNSERVED_FOR), running)
    claiming = [each for each in consumers if not each.is_quiet]
    served = Servers((each.queues, each.name) for each in claiming)
    served_quietly = Servers((each.queues, each.name) for each in consumers if each.is_quiet)
    lacking = [queue for queue in sorted(due) if not served.any(queue)][:MOST]
    counts = engine.waits.count(lacking, MOST_COUNTED)
    found = []
    for queue in lacking:
        wait = round(waits[queue].seconds, 1) if queue in waits else 0.0
        quiet = next(iter(served_quietly.of(queue)), None)
        facts: dict[str, Any] = {"jobs": counts.get(queue, 0), "wait": wait or None, "quiet": quiet}
        if queue in running:
            facts["running"] = running[queue]
        if claiming:
            facts["others"] = len(claiming)
        found.append(Found("no_consumer", queue, facts))
    return found


def long_waits(
    engine: Engine,
    waits: Mapping[str, QueueWait],
    consumers: Sequence[Server],
    paused: Collection[str],
    now: float,
) -> list[Found]:
    """Return the queues with a job that has waited for longer than `DJJP["wait_alert"]`, ready or for a permit."""
    given = conf.current().wait_alert
    if given is None:
        return []
    limit = seconds("wait_alert", given)
    longest = sorted(waits.items(), key=lambda each: -each[1].seconds)[:MOST]
    long = {queue: wait for queue, wait in longest if wait.seconds > limit}
    unknown = _unknown_names(engine, long, consumers)
    full = held_slots(engine, long.keys() - unknown.keys(), consumers, limit, now)
    # Without a consumer no job runs: those that hold permits wait for their rescue.
    held = _held_limits(engine, limit, paused, now) if consumers else {}
    ready = {
        queue: {
            "wait": round(wait.seconds, 1),
            "limit": limit,
            **{**full, **unknown}.get(queue, {}),
        }
        for queue, wait in long.items()
    }
    return [Found("wait", queue, facts) for queue, facts in {**held, **ready}.items()][:MOST]


def _unknown_names(
    engine: Engine, waits: Mapping[str, QueueWait], consumers: Sequence[Server]
) -> dict[str, dict[str, Any]]:
    """Return, by queue, the job that comes next and that no consumer of the queue knows."""
    firsts = [wait.first for wait in waits.values() if wait.first is not None]
    if not firsts or not consumers:
        return {}
    claiming = Servers((each.queues, each) for each in consumers if not each.is_quiet)
    found = {}
    for queue, name in engine.waits.names(firsts):
        able = claiming.of(queue)
        if able and all(each.names is not None and name not in each.names for each in able):
            found[queue] = {"unknown": name, "consumers": len(able)}
    return found


def _held_limits(
    engine: Engine, limit: float, paused: Collection[str], now: float
) -> dict[str, dict[str, Any]]:
    """Return, by queue, the limit that has given no permit to its blocked jobs for longest."""
    found: dict[str, dict[str, Any]] = {}
    for full in engine.holding.full(now - limit)[:MOST_LIMITS]:
        holder = engine.holding.holder(full.key)
        if holder is None:
            continue
        for each in engine.holding.blocked(full.key):
            wait = now - max(each.due, full.since)
            if wait <= limit or each.queue in paused or each.queue in found:
                continue
            found[each.queue] = {
                "wait": round(wait, 1),
                "limit": limit,
                "jobs": each.jobs,
                "key": full.key,
                "permits": full.permits,
                "job": str(holder.id),
                "name": holder.name,
                "consumer": holder.consumer,
                "held": round(now - holder.since, 1),
                "cancelled": holder.is_cancelled,
            }
    return found


# Totals and depths


class Ends(NamedTuple):
    """The ends of the jobs of one queue and name within the last minutes."""

    queue: str
    name: str
    succeeded: int
    failed: int
    cancelled: int
    late: int

    @property
    def all(self) -> int:
        return self.succeeded + self.failed + self.cancelled


def ends(engine: Engine, now: float) -> list[Ends]:
    """Return the ends of the last minutes by queue and name, summed up by the database."""
    minutes = Tile(Span.MINUTE, int(now - WINDOW) + 1, None)
    groups = engine.history.read([minutes], {}, ("queue", "name"), histograms=())
    return [
        Ends(
            group.queue, group.name, *(group.sums.counts.get(kind, 0) for kind in Ends._fields[2:])
        )
        for group in groups[:MOST_TOTALS]
    ]


def failing(ended: Iterable[Ends]) -> list[Found]:
    """Return the names of which most jobs fail."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for each in ended:
        sums[each.name][0] += each.failed
        sums[each.name][1] += each.all
    found = (
        Found("failing", name, {"failed": failed, "ended": count})
        for name, (failed, count) in sums.items()
        if count >= FAILING_ENDS and failed > FAILING_PART * count
    )
    return list(islice(found, MOST))


def late(ended: Iterable[Ends]) -> list[Found]:
    """Return the names of which the fence has refused outcomes."""
    sums: dict[str, int] = defaultdict(int)
    for each in ended:
        sums[each.name] += each.late
    found = (Found("late_results", name, {"late": count}) for name, count in sums.items() if count)
    return list(islice(found, MOST))


def backlogs(
    engine: Engine, ended: Iterable[Ends], still: Collection[str], now: float
) -> list[Found]:
    """Return the queues that grow and would take long to drain.

    Args:
        still: the queues that were found so before. They are for as long as they do not shrink: at 100,000 ready
            jobs the counts end.
    """
    rows = Depth.objects.using(engine.db.alias).filter(minute__gt=now - WINDOW - 90)
    depths: dict[int, dict[str, int]] = defaultdict(dict)
    for minute, queue, ready in rows.values_list("minute", "queue", "ready"):
        depths[minute][queue] = ready
    minutes = sorted(depths)
    if not minutes or minutes[-1] - minutes[0] < WINDOW - 60 or minutes[-1] < now - 150:
        return []
    rates: dict[str, int] = defaultdict(int)
    for each in ended:
        rates[each.queue] += each.all
    found = []
    for queue, ready in depths[minutes[-1]].items():
        counts = [depths[minute].get(queue, 0) for minute in minutes]
        grows = counts[0] == min(counts) and ready == max(counts)
        if not ready or not grows or (ready == counts[0] and queue not in still):
            continue
        drain = WINDOW * ready / rates[queue] if rates[queue] else None
        if drain is None or drain > LONG_DRAIN:
            facts = {"before": counts[0], "ready": ready, "seconds": drain and round(drain)}
            found.append(Found("backlog", queue, facts))
    return found[:MOST]


# Schedules


def broken_schedules(
    rows: Iterable[Schedule], consumers: Sequence[Server], refused: Mapping[int, str]
) -> list[Found]:
    """Return the schedules that nobody can fire.

    Args:
        refused: why this process could not fire schedules that were due, by their numbers.
    """
    found = []
    for row in rows:
        problem = _problem(row, consumers, refused) if row.enabled else None
        if problem is not None:
            facts = {"schedule": row.pk, "job": row.job, "problem": one_line(problem)[:_LONGEST]}
            found.append(Found("schedule_broken", row.name, facts))
    return found[:MOST]


def _problem(row: Schedule, consumers: Sequence[Server], refused: Mapping[int, str]) -> str | None:
    if registry.find(row.job) is None:
        # Another consumer, of other code, can know the job.
        if any(each.names is None or row.job in each.names for each in consumers):
            return _untimely(row)
        return schedules.problem(row)
    if row.source == Source.CODE and not schedules.is_in_code(row):
        return None  # its job has no schedule any more, which is no fault
    return schedules.problem(row) or refused.get(row.pk)


def _untimely(row: Schedule) -> str | None:
    """Return why a schedule has no times."""
    try:
        schedules.timing(row)
    except (LookupError, ValueError, TypeError) as error:
        return str(error)
    return None
