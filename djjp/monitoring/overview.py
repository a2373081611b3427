"""The overview: what the queue does now, in milliseconds whatever the number of jobs.

It comes from bounded counts of live jobs, the totals and samples of the last minutes, and the rows of consumers,
schedules and incidents; no statement reads the jobs that have ended.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from django.db import Error as DatabaseError

from djjp import engine, queues, schedules
from djjp.engine.depths import Live, Sample
from djjp.engine.waits import Wait, queues_of, since
from djjp.models import Schedule
from djjp.monitoring.consumers import ConsumerInfo, Life, consumers
from djjp.monitoring.detection import look
from djjp.monitoring.incidents import Incident, incidents
from djjp.monitoring.totals import Figures, ends_by_queue
from djjp.outbox import table
from djjp.served import Servers

#: The number at which a count of live jobs ends, unless a sample has the rest.
MOST = 1_000
#: The ready jobs that are counted in all queues together.
MOST_READY = 20_000
#: The seconds over which rates are taken, and for which a queue in which jobs have ended is shown at least.
RATE_SECONDS, SHOWN_SECONDS = 300.0, 3600.0
# The number at which a count of refused jobs of an outbox ends.
_MOST_SET_ASIDE = 1_000
#: Seconds after which a schedule that is due counts as overdue.
OVERDUE = 10.0
_STATES = ("ready", "scheduled", "blocked", "running")


class QueueInfo(NamedTuple):
    """A queue as it is now.

    Attributes:
        counts: the number of jobs by state: ready, scheduled, blocked and running.
        lower_bounds: the states of which there can be more jobs than were counted.
        oldest_wait: the seconds for which the job that was due first has waited; None without a ready job.
        in_per_minute, out_per_minute: the jobs that came and that ended, in the last five minutes; None if that is
            not known.
        paused_until: when it resumes automatically; None if it stays paused, or is not paused.
        served_by: the names of the consumers that claim its jobs.
    """

    name: str
    counts: dict[str, int]
    lower_bounds: list[str]
    oldest_wait: float | None
    in_per_minute: float | None
    out_per_minute: float | None
    is_paused: bool
    paused_until: datetime | None
    served_by: list[str]

    @property
    def empty_in(self) -> float | None:
        """The seconds until no job of it is ready, at the rates of the last minutes; None if that is not known.

        It is not known of a queue that is paused, or to which more jobs come than end.
        """
        if not self.counts["ready"]:
            return 0.0
        if self.is_paused or self.in_per_minute is None or self.out_per_minute is None:
            return None
        fewer = self.out_per_minute - self.in_per_minute
        return 60 * self.counts["ready"] / fewer if fewer > 0 else None


class OutboxInfo(NamedTuple):
    """An outbox.

    Attributes:
        waiting: the number of jobs that wait for their relay; None if its database does not answer.
        oldest_wait: the seconds for which the first of them has waited; None without one.
        set_aside: the number of jobs that the queue has refused, up to a bound; they are not relayed.
    """

    alias: str
    waiting: int | None
    oldest_wait: float | None
    set_aside: int = 0


class Overview(NamedTuple):
    """The queue as it is now.

    Attributes:
        incidents: the open ones, worst first.
        overdue: the schedules that are due and were not fired.
    """

    incidents: list[Incident]
    queues: list[QueueInfo]
    consumers: list[ConsumerInfo]
    overdue: list[Schedule]
    outboxes: list[OutboxInfo]

    @property
    def sentence(self) -> str:
        """One sentence: that all is well, or the worst incident with its remedy."""
        return self.incidents[0].sentence if self.incidents else "all is well"


def overview() -> Overview:
    """Return what the queue does now.

    Raises:
        QueueUnavailable: the queue's database does not answer.
    """
    heads = engine.run(lambda engine: engine.waits.first())
    look(heads)
    found = consumers()
    return Overview(
        incidents(open_only=True),
        queue_infos(found, heads=heads),
        found,
        [row for row in schedules.listing() if _is_overdue(row)],
        [_outbox(alias) for alias in table.outboxes()],
    )


def queue_infos(
    serving: Iterable[ConsumerInfo] | None = None,
    *,
    also: Iterable[str] = (),
    heads: Sequence[Wait] | None = None,
) -> list[QueueInfo]:
    """Return the queues that have live jobs, are paused, or have had an end in this hour or the last one; by name.

    Args:
        serving: the consumers, if they are known.
        also: further queues, whatever they have had.
        heads: the first ready jobs, if they are known.
    """
    now = time.time()
    claiming = Servers(
        (each.queues, each.name)
        for each in (consumers() if serving is None else serving)
        if each.life is Life.ALIVE and not each.quiet
    )
    first = engine.run(lambda engine: engine.waits.first()) if heads is None else heads
    live = engine.run(
        lambda engine: engine.depths.live(
            MOST, ready_together=MOST_READY, with_ready=queues_of(first)
        )
    )
    waits = since(first)
    samples = engine.run(lambda engine: engine.depths.samples(now - RATE_SECONDS - 60))
    ended = {each.queue: each for each in ends_by_queue(now - RATE_SECONDS)}
    recent = {each.queue for each in ends_by_queue(now - SHOWN_SECONDS, in_hours=True)}
    paused = queues.paused()
    named = {name for by_queue in live.counts.values() for name in by_queue}
    found = []
    for name in sorted({*named, *ended, *recent, *paused, *also}):
        of_queue = samples.get(name, [])
        counts, bounds = _counts(name, live, of_queue[-1:])
        due = waits.get(name)
        out = _per_minute(ended.get(name))
        found.append(
            QueueInfo(
                name,
                counts,
                bounds,
                None if due is None else max(0.0, now - due),
                _incoming(out, of_queue),
                out,
                name in paused,
                paused.get(name),
                claiming.of(name),
            )
        )
    return found


def _counts(name: str, live: Live, latest: list[Sample]) -> tuple[dict[str, int], list[str]]:
    """Return the jobs by state, and the states of which there can be more.

    A count that has ended at its bound is that of the latest sample, if it is larger.
    """
    counts, bounds = {}, []
    for state in _STATES:
        number = live.counts[state].get(name, 0)
        most = live.most_ready if state == "ready" else MOST
        if number >= most or state in live.incomplete:
            number = max([number, *(getattr(each, state) for each in latest)])
            bounds.append(state)
        counts[state] = number
    return counts, bounds


def _per_minute(figures: Figures | None) -> float:
    return 0.0 if figures is None else figures.ended / (RATE_SECONDS / 60)


def _incoming(out: float, samples: list[Sample]) -> float | None:
    """Return the jobs that come in a minute: those that end, and those by which the queue grows."""
    if len(samples) < 2:
        return None
    first, last = samples[0], samples[-1]
    minutes = (last.minute - first.minute) / 60
    before, after = (sum(each[1:]) for each in (first, last))
    return max(0.0, out + (after - before) / minutes)


def _is_overdue(row: Schedule) -> bool:
    if not row.enabled or schedules.problem(row) is not None:
        return False
    following = schedules.next_occurrence(row)
    return following is not None and following < time.time() - OVERDUE


def _outbox(alias: str) -> OutboxInfo:
    try:
        oldest = table.oldest(alias)
        waiting = table.count_waiting(alias)
        set_aside = table.count_set_aside(alias, _MOST_SET_ASIDE)
    except DatabaseError:
        return OutboxInfo(alias, None, None)
    wait = None if oldest is None else max(0.0, time.time() - oldest)
    return OutboxInfo(alias, waiting, wait, set_aside)
