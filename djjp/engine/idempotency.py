"""Idempotency: enqueue the jobs of a request once, however often the request is repeated.

The key of a request is written in the transaction of its jobs. A repeat that comes meanwhile waits for the
key, and then finds it, or writes it if that transaction was rolled back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from django.db.models import QuerySet

from djjp.durations import to_datetime
from djjp.engine.database import Database
from djjp.engine.jobs import Jobs
from djjp.engine.records import NO_HOLDERS, KeyHolders, NewJob
from djjp.models import IdempotencyKey

#: Seconds for which a key is kept.
KEPT = 86_400.0


class Request(NamedTuple):
    """A request to enqueue that can be repeated.

    Attributes:
        fingerprint: a digest of what it asks for; a repeat has the same.
    """

    token: UUID
    key: str
    fingerprint: str


class Answered(NamedTuple):
    """The request that has enqueued jobs under a key.

    Attributes:
        jobs: the ids of its jobs, in order; of a job whose unique key was held, that of the holder.
        is_new: whether these jobs were enqueued by this call.
        held: the holders of unique keys, where it is new.
    """

    fingerprint: str
    jobs: list[UUID]
    is_new: bool
    held: KeyHolders = NO_HOLDERS


class Idempotency:
    """Enqueue jobs once for each key, and prune keys."""

    def __init__(self, db: Database, jobs: Jobs) -> None:
        self._db = db
        self._jobs = jobs

    def enqueue(self, request: Request, jobs: Sequence[NewJob], now: float) -> Answered:
        """Write jobs and their key, all or none, unless the key is there; return what it stands for."""
        own = [job.id for job in jobs]
        with self._db.transaction():
            rows = self._rows().filter(token=request.token, key=request.key)
            rows.filter(created_at__lt=to_datetime(now - KEPT)).delete()
            row = IdempotencyKey(
                token=request.token,
                key=request.key,
                fingerprint=request.fingerprint,
                jobs=_text(own),
                created_at=to_datetime(now),
            )
            self._rows().bulk_create([row], ignore_conflicts=True)
            kept = rows.get()
            ids = [UUID(text) for text in kept.jobs.split()]
            if ids != own:
                return Answered(kept.fingerprint, ids, is_new=False)
            # A call is made twice if its connection was lost: then the jobs may be there.
            held = self._jobs.enqueue_many(jobs)
            if held:
                ids = [held[id].id if id in held else id for id in own]
                rows.update(jobs=_text(ids))
            return Answered(request.fingerprint, ids, is_new=True, held=held)

    def prune(self, now: float, limit: int) -> bool:
        """Delete some keys that were kept for long enough; return whether there may be more."""
        old = self._rows().filter(created_at__lt=to_datetime(now - KEPT)).order_by("created_at")
        found = list(old.values_list("token", "key")[:limit])
        for token, key in found:
            self._rows().filter(token=token, key=key).delete()
        return len(found) == limit

    def _rows(self) -> QuerySet[IdempotencyKey]:
        return IdempotencyKey.objects.using(self._db.alias)


def _text(ids: Sequence[UUID]) -> str:
    return " ".join(id.hex for id in ids)
