"""Detection: open incidents, keep them while they last, close them when they are over; announce both.

One consumer at a time searches, every few seconds, beside its turns. Where no consumer is alive, `look()` searches
on behalf of the pages and commands that show incidents. Several searches at the same time do no harm: see
`djjp.engine.incidents`.

An incident is closed only after searches have not found it for a while, so that one which comes and goes is one
incident.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from math import inf

from django.db import Error as DatabaseError
from django.db import connections, transaction
from django.dispatch import Signal

from djjp import conf, engine, models
from djjp.bounds import one_line
from djjp.durations import seconds, spelled, to_seconds
from djjp.engine import Engine, Liveness, Peer, Refusal
from djjp.engine.incidents import Found
from djjp.engine.waits import Wait
from djjp.monitoring import conditions
from djjp.monitoring.incidents import KINDS, Incident, of_row
from djjp.outbox import table
from djjp.signals import incident_closed, incident_opened

logger = logging.getLogger("djjp.incidents")

#: Seconds for which an incident must not have been found until it is closed …
CLOSE_AFTER = 60.0
#: … and those of incidents that happen at instants.
CLOSE_EVENT_AFTER = {"consumer_lost": 300.0, "loop_blocked": 300.0}
#: Seconds for which a consumer must have found an incident of a kind before it opens one.
OPEN_AFTER = {"no_consumer": 4.0}
#: Seconds between two reads of schedules, totals and depths.
FIGURES_EVERY = 15.0
#: Seconds for which a job can wait in an outbox.
OUTBOX_WAIT = 10.0
#: Seconds for which closed incidents are kept, and between two searches for those to delete.
KEEP, PRUNE_EVERY = 30 * 86_400.0, 600.0
#: The number of consumers that `look()` tests for life, those with the newest heartbeats first.
_MOST_TESTED = 200

#: Seconds for which searches that go on must not have found an incident of these kinds, or of others, until it
#: seems to be over: some times those between two searches, so that a slow one does not count.
SEEMS_OVER_AFTER = {"no_consumer": 15.0, "wait": 15.0, "outbox_behind": 15.0}
SEEMS_OVER = 40.0

#: The kinds that need totals, depths or schedules.
_FIGURES = frozenset({"failing", "late_results", "backlog", "schedule_broken"})

#: Calls a function: at once, or beside the caller's work.
Announcer = Callable[[Callable[[], None]], None]


def at_once(send: Callable[[], None]) -> None:
    """Send signals in the calling thread."""
    send()


class IncidentDetector:
    """The searches of one consumer, and the memory between them.

    Args:
        announcer: calls the function that sends signals.
    """

    def __init__(self, announcer: Announcer = at_once) -> None:
        self._announcer = announcer
        self._waits = conditions.Waits()
        self._found_since: dict[tuple[str, str], float] = {}
        self._searching_since = inf
        self._figures_at = self._prune_at = -inf

    def forget(self) -> None:
        """Begin anew: this process, or the queue's database, was away for a while."""
        self._waits.clear()
        self._found_since.clear()
        self._searching_since = inf

    def search(
        self,
        engine: Engine,
        reported: Sequence[Found] = (),
        refused: Mapping[int, str] | None = None,
    ) -> None:
        """Search for all incidents once.

        Args:
            reported: the incidents that this consumer reports itself: see `djjp.consumer.observations`.
            refused: why it could not fire schedules that were due, by their numbers.
        """
        now = engine.db.clock()
        self._searching_since = min(self._searching_since, now)
        with_figures = time.monotonic() >= self._figures_at + FIGURES_EVERY
        opened = engine.incidents.open()
        known = {(row.kind, row.subject) for row in opened}
        servers = conditions.servers(engine)
        found = [*conditions.skewed(engine, servers, now), *reported]
        found += _ready(engine, self._waits, servers, now)
        if with_figures:
            found += _figures(engine, servers, known, refused or {}, now)
            self._figures_at = time.monotonic()
        _settle(
            engine,
            self._lasting(found, known, now),
            [row for row in opened if with_figures or row.kind not in _FIGURES],
            self._searching_since,
            now,
            self._announcer,
        )
        if time.monotonic() >= self._prune_at + PRUNE_EVERY:
            engine.incidents.prune(min(now, time.time()) - KEEP)
            self._prune_at = time.monotonic()

    def _lasting(
        self, found: Sequence[Found], known: Collection[tuple[str, str]], now: float
    ) -> list[Found]:
        """Return the incidents that are open or were found for long enough."""
        self._found_since = {each.key: self._found_since.get(each.key, now) for each in found}
        return [
            each
            for each in found
            if each.key in known
            or now - self._found_since[each.key] >= OPEN_AFTER.get(each.kind, 0.0)
        ]


def report(engine: Engine, found: Sequence[Found], announcer: Announcer = at_once) -> None:
    """Open or keep incidents that no table shows."""
    if found:
        _announce(engine, engine.incidents.record(found, engine.db.clock()), [], announcer)


def seems_over(incident: Incident) -> bool:
    """Return whether the last searches of a live consumer have not found an open incident: it is closed soon."""
    if not incident.is_open or incident.kind == "loop_blocked":
        return False
    facts = incident.facts
    if incident.kind == "consumer_lost" and (facts.get("failed") or facts.get("deaths", 0) > 1):
        return False  # it has done harm, or does it again and again
    unseen = time.time() - to_seconds(incident.seen_at)
    return unseen >= SEEMS_OVER_AFTER.get(incident.kind, SEEMS_OVER)


def end(kind: str, subjects: Collection[str]) -> None:
    """Close open incidents whose cause somebody has just removed, before a search finds that."""

    def verb(engine: Engine) -> None:
        rows = [
            row for row in engine.incidents.open() if row.kind == kind and row.subject in subjects
        ]
        _announce(engine, [], engine.incidents.close(rows, engine.db.clock()), at_once)

    engine.run(verb)


def look(heads: Sequence[Wait] | None = None) -> None:
    """Search for incidents once if no consumer is alive; a live one does it itself.

    Args:
        heads: the first ready jobs, if the caller has just read them.

    Raises:
        QueueUnavailable: the queue's database does not answer.
    """
    engine.run(partial(_look, heads=heads))


async def alook() -> None:
    """`look` for coroutines."""
    await engine.arun(_look)


def _look(engine: Engine, heads: Sequence[Wait] | None = None) -> None:
    now = engine.db.clock()
    if _can_be_alive(engine, now):
        return
    opened = engine.incidents.open()
    known = {(row.kind, row.subject) for row in opened}
    found = [
        *_ready(engine, conditions.Waits(), [], now, heads),
        *_figures(engine, [], known, {}, now),
        *_outboxes(now),
    ]
    try:
        with _savepoint(engine.db.alias):
            _settle(engine, found, opened, -inf, now, at_once)
    except DatabaseError as error:
        if engine.db.classify(error) is Refusal.LOST:
            raise
        # The caller shows facts, also those of a server that can only be read.
        logger.info("incidents cannot be written: %s", error)


def _can_be_alive(engine: Engine, now: float) -> bool:
    """Return whether a consumer is alive, or may come back because the queue's database was away.

    A consumer that has lost the lock of its session counts as dead only after it has sent no heartbeat for as long
    as a consumer without any lock, and not just after the start of the server.
    """
    limit = seconds("heartbeat_limit", conf.current().heartbeat_limit)
    rows = models.Consumer.objects.using(engine.db.alias).order_by("-heartbeat_at")
    columns = rows.values_list("pk", "heartbeat_at", "locked")[:_MOST_TESTED]
    heartbeats = {name: to_seconds(at) for name, at, _ in columns}
    liveness = engine.consumers.liveness_of([Peer(n, heartbeats[n], has) for n, _, has in columns])
    if Liveness.LIVES in liveness.values():
        return True
    in_doubt = [heartbeats[n] for n, state in liveness.items() if state is not Liveness.ENDED]
    if any(abs(now - at) < limit for at in in_doubt):
        return True
    return bool(in_doubt) and engine.db.up_for() < limit


# The incidents of this moment


def _ready(
    engine: Engine,
    waits: conditions.Waits,
    servers: Sequence[conditions.Server],
    now: float,
    heads: Sequence[Wait] | None = None,
) -> list[Found]:
    """Return what is wrong with the ready jobs of the queues that are not paused."""
    paused = engine.queues.paused(now)
    with engine.db.planned():
        heads = engine.waits.first() if heads is None else heads
        each = {q: wait for q, wait in waits.read(heads, now).items() if q not in paused}
        found = conditions.unserved(engine, each, servers, now)
        found += conditions.long_waits(engine, each, servers, paused, now)
    return [one for one in found if one.subject not in paused]


def _figures(
    engine: Engine,
    servers: Sequence[conditions.Server],
    known: Iterable[tuple[str, str]],
    refused: Mapping[int, str],
    now: float,
) -> list[Found]:
    """Return what totals, depths and schedules show."""
    ended = conditions.ends(engine, now)
    growing = {subject for kind, subject in known if kind == "backlog"}
    paused = engine.queues.paused(now)
    backlogs = conditions.backlogs(engine, ended, growing, now)
    return [
        *conditions.failing(ended),
        *conditions.late(ended),
        *(one for one in backlogs if one.subject not in paused),
        *conditions.broken_schedules(engine.schedules.all(), servers, refused),
    ]


def _outboxes(now: float) -> list[Found]:
    """Return the outboxes in which a job waits, and that no consumer sweeps."""
    found = []
    for alias in table.outboxes():
        try:
            with _savepoint(alias):
                oldest = table.oldest(alias)
        except DatabaseError:
            continue  # the database is away, or has no such table
        if oldest is not None and now - oldest > OUTBOX_WAIT:
            found.append(behind(alias, now - oldest, consumers=False))
    return found


def _savepoint(alias: str) -> AbstractContextManager[object]:
    """Return a savepoint where the caller has a transaction, which an error must not break."""
    within = connections[alias].in_atomic_block
    return transaction.atomic(using=alias) if within else nullcontext()


def behind(alias: str, wait: float, *, consumers: bool) -> Found:
    """Return the incident of an outbox.

    Args:
        consumers: whether a consumer sweeps it.
    """
    return Found("outbox_behind", alias, {"wait": round(wait, 1), "consumers": consumers})


# Rows and announcements


def _settle(
    engine: Engine,
    found: Iterable[Found],
    opened: Sequence[models.Incident],
    searching_since: float,
    now: float,
    announcer: Announcer,
) -> None:
    """Record what was found, close what was not found for a while, and announce both."""
    found = [*found]
    keys = {each.key for each in found}
    over = [
        row
        for row in opened
        if row.kind in KINDS
        and (row.kind, row.subject) not in keys
        and now - max(to_seconds(row.seen_at), searching_since)
        >= CLOSE_EVENT_AFTER.get(row.kind, CLOSE_AFTER)
    ]
    new = engine.incidents.record(found, now, opened)
    _announce(engine, new, engine.incidents.close(over, now), announcer)


def _announce(
    engine: Engine,
    opened: Iterable[models.Incident],
    closed: Iterable[models.Incident],
    announcer: Announcer,
) -> None:
    """Log incidents that this process has opened or closed, and send their signals, once that is committed."""
    news = [(incident_opened, of_row(row)) for row in opened]
    news += [(incident_closed, of_row(row)) for row in closed]
    if news:
        transaction.on_commit(partial(_publish, news, announcer), engine.db.alias, robust=True)


def _publish(news: Sequence[tuple[Signal, Incident]], announcer: Announcer) -> None:
    for _, incident in news:
        if incident.is_open:
            logger.warning("incident: %s", incident.sentence)
        else:
            name = one_line(f"{incident.kind} {incident.subject}".strip())
            lasted = to_seconds(incident.seen_at) - to_seconds(incident.opened_at)
            logger.info("the incident %s is over; it has lasted for %s", name, spelled(lasted))
    if any(signal.has_listeners(Incident) for signal, _ in news):
        announcer(partial(_send, news))


def _send(news: Sequence[tuple[Signal, Incident]]) -> None:
    for signal, incident in news:
        try:
            signal.send_robust(sender=Incident, incident=incident)
        except SystemExit:  # the process goes on
            logger.exception("a receiver of %s has tried to end the process", incident.kind)
