"""The registry of consumers: their rows, heartbeats and locks, and the jobs that they run."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from djjp.conf import Settings
from djjp.durations import seconds, to_datetime
from djjp.engine import lockfile
from djjp.engine.database import Database
from djjp.engine.records import ClaimKey, Liveness, Peer
from djjp.models import Consumer, Job, Release, State, Transfer

_CONSUMERS = Consumer._meta.db_table
#: The most seconds between two heartbeats.
BEAT_EVERY = 5.0
#: The changes to a release that are kept.
RELEASES_KEPT = 200

_RUNNING_JOBS = f"SELECT id, claim, attempts FROM {Job._meta.db_table} WHERE state = 'running' AND consumer = %s"


# A consumer starts jobs in the order in which it has claimed them: those beyond its slots are claimed ahead.
_HELD = f"""SELECT consumer, name, is_ahead, count(*), {{since}} FROM (
SELECT job.consumer, job.name, job.started_at, row_number() OVER (PARTITION BY job.consumer
ORDER BY job.started_at, job.priority DESC, job.id) > owner.concurrency_limit AS is_ahead
FROM {Job._meta.db_table} AS job LEFT JOIN {_CONSUMERS} AS owner ON owner.name = job.consumer
WHERE job.state = 'running' AND job.consumer IS NOT NULL) AS held
GROUP BY consumer, name, is_ahead"""


_HELD_BY = f"""SELECT id FROM {Job._meta.db_table} WHERE state = 'running' AND consumer = %s
ORDER BY started_at, priority DESC, id LIMIT %s"""


class Held(NamedTuple):
    """Jobs of one name that a consumer holds: running jobs, or jobs that it has claimed ahead."""

    consumer: str
    name: str
    is_ahead: bool
    jobs: int
    since: float


def beat_every(settings: Settings) -> float:
    """Return the seconds between two heartbeats of a consumer: several in each of the limits."""
    limits = [settings.heartbeat_limit, settings.frozen_limit]
    given = [seconds("a limit", each) for each in limits if each is not None]
    return min(BEAT_EVERY, *(limit / 5 for limit in given))


class Consumers:
    """Register consumers, record their heartbeats and test their locks."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def acquire_lock(self, consumer: str) -> bool:
        """Take or keep the locks that end with this process: a lock file, and the lock of a session.

        Returns:
            Whether peers can test them: for a server's queue, from any machine.
        """
        path = self._lock_file(consumer)
        has_file = path is not None and lockfile.acquire(path)
        has_session = self._db.acquire_lock(consumer)
        return has_file if has_session is None else has_session

    def release_lock(self, consumer: str) -> None:
        """Release the locks."""
        if (path := self._lock_file(consumer)) is not None:
            lockfile.release(path)
        self._db.release_lock(consumer)

    def liveness(self, peer: Peer) -> Liveness:
        """Return what a consumer's locks say about it. The lock file says most, but only on its machine."""
        if (known := self._by_file(peer.name)) is not None:
            return known
        if not peer.locked or (locked := self._db.is_locked(peer.name)) is None:
            return Liveness.UNKNOWN
        return Liveness.LIVES if locked else Liveness.CUT_OFF

    def liveness_of(self, peers: Collection[Peer]) -> dict[str, Liveness]:
        """Return the `liveness` of consumers by their names, with one statement at most."""
        found: dict[str, Liveness] = {}
        remote = []
        for peer in peers:
            known = self._by_file(peer.name)
            found[peer.name] = known or Liveness.UNKNOWN
            if known is None and peer.locked:
                remote.append(peer.name)
        for name, locked in (self._db.are_locked(remote) if remote else {}).items():
            found[name] = Liveness.LIVES if locked else Liveness.CUT_OFF
        return found

    def _by_file(self, consumer: str) -> Liveness | None:
        """Return what the lock file says; None on another machine."""
        path = self._lock_file(consumer)
        locked = None if path is None else lockfile.is_locked(path)
        return None if locked is None else Liveness.LIVES if locked else Liveness.ENDED

    def _lock_file(self, consumer: str) -> Path | None:
        folder = self._db.runtime_dir()
        return None if folder is None else lockfile.path_of(folder, consumer, ".lock")

    def register(self, consumer: Consumer) -> None:
        """Insert a consumer's row, or overwrite it; note that its release has appeared."""
        consumer.save(using=self._db.alias)
        if consumer.release:
            self._note_release(consumer)

    def _note_release(self, consumer: Consumer) -> None:
        """Note the release of a consumer, unless it is the last one that appeared, or another consumer has it."""
        releases = Release.objects.using(self._db.alias)
        others = Consumer.objects.using(self._db.alias).filter(release=consumer.release)
        latest = releases.order_by("-pk").values_list("name", flat=True).first()
        # While a release replaces another one, consumers of both start.
        if latest != consumer.release and not others.exclude(pk=consumer.pk).exists():
            noted = releases.create(name=consumer.release, appeared_at=consumer.started_at)
            releases.filter(pk__lte=noted.pk - RELEASES_KEPT).delete()

    def transfer(self) -> Transfer | None:
        """Return the unfinished transfer from or to this queue, during which no consumer must run its jobs."""
        return Transfer.objects.using(self._db.alias).filter(finished_at__isnull=True).first()

    def heartbeat(self, consumer: str, now: float, locked: bool) -> bool:
        """Record a heartbeat, and return whether the row exists; if not, the consumer was declared dead."""
        row = Consumer.objects.using(self._db.alias).filter(pk=consumer)
        return row.update(heartbeat_at=to_datetime(now), locked=locked) > 0

    def deregister(self, consumer: str) -> None:
        """Delete a consumer's row."""
        Consumer.objects.using(self._db.alias).filter(pk=consumer).delete()

    def peers(self) -> list[Peer]:
        """Return all consumers that have a row, ordered by name."""
        # Without the ORM, which takes twice as long: this is nearly the only query of an idle consumer.
        # A row by hand whose heartbeat is no time is left out until `repair_heartbeats` has put it right.
        is_time = self._db.is_time.format("heartbeat_at")
        with self._db.connection.cursor() as cursor:
            cursor.execute(
                "SELECT name || '', heartbeat_at, locked, request IS NOT NULL"
                f" FROM {_CONSUMERS} WHERE {is_time} AND name IS NOT NULL ORDER BY name"
            )
            rows = cursor.fetchall()
        return [
            Peer(name, self._db.to_seconds(at), bool(locked), bool(requested))
            for name, at, locked, requested in rows
        ]

    def repair_heartbeats(self, now: float) -> None:
        """Write a heartbeat where there is none that can be read, so that the consumer can be found dead."""
        odd = f"heartbeat_at IS NULL OR NOT ({self._db.is_time.format('heartbeat_at')})"
        with self._db.connection.cursor() as cursor:
            # The query comes before any lock, because there is hardly ever such a row.
            cursor.execute(f"SELECT 1 FROM {_CONSUMERS} WHERE {odd} LIMIT 1")
            if cursor.fetchone() is not None:
                cursor.execute(
                    f"UPDATE {_CONSUMERS} SET heartbeat_at = %s WHERE {odd}",
                    [self._db.to_param(now)],
                )

    def consumers_without_row(self) -> list[Peer]:
        """Return the consumers of running jobs that have no row."""
        running = Job.objects.using(self._db.alias).filter(state=State.RUNNING).order_by()
        named = running.filter(consumer__isnull=False).values_list("consumer", flat=True)
        names = {str(name) for name in named.distinct()}
        known = set(Consumer.objects.using(self._db.alias).values_list("pk", flat=True))
        return [Peer(name, None, True) for name in sorted(names - known)]

    def held(self) -> list[Held]:
        """Return the jobs that consumers hold, ordered by consumer and name."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(_HELD.format(since=self._db.moment.format("min(started_at)")))
            rows = cursor.fetchall()
        return sorted(
            Held(str(c), str(n), bool(ahead), count, self._moment(since))
            for c, n, ahead, count, since in rows
        )

    def held_by(self, consumer: str, limit: int) -> list[UUID]:
        """Return the first jobs that a consumer holds, in the order in which it starts them."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(_HELD_BY, [consumer, limit])
            return [id for (key,) in cursor.fetchall() if (id := self._db.to_id(key)) is not None]

    def _moment(self, value: Any) -> float:
        try:
            return self._db.to_seconds(value)
        except (AttributeError, TypeError, ValueError):  # a row by hand
            return 0.0

    def running_jobs(self, consumer: str) -> dict[ClaimKey, int]:
        """Return, by claim, the attempts that run on a consumer according to the queue."""
        with self._db.connection.cursor() as cursor:
            cursor.execute(_RUNNING_JOBS, [consumer])
            rows = cursor.fetchall()
        # A row by hand can have an id that is none: it is no claim of a consumer's.
        ids = ((self._db.to_id(key), claim, attempts) for key, claim, attempts in rows)
        return {(id, claim): attempts for id, claim, attempts in ids if id is not None}
