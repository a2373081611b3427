"""Requests: what a consumer is asked to do through its row.

A request is a text in the consumer's row. The coordinator finds it in the rows of all consumers, which it reads
anyway to find dead ones, does what it asks, and writes the answer in its place. So a row has one request at a
time, and another requester waits until it is answered or withdrawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from djjp.engine.database import Database
from djjp.models import Consumer

if TYPE_CHECKING:
    from django.db.models import QuerySet


class Requests:
    """Make and answer the requests to consumers."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def make(self, consumer: str, request: str) -> bool:
        """Write a request, unless there is one; return whether it was written, now or before."""
        row = self._row(consumer)
        # A consumer can answer, and end, before the next statement.
        if row.filter(request__isnull=True).update(request=request):
            return True
        return row.filter(request=request).exists()

    def withdraw(self, consumer: str, request: str) -> bool:
        """Delete a request; return False if it is answered, or the consumer is gone."""
        return self._row(consumer).filter(request=request).update(request=None) > 0

    def of(self, consumer: str) -> str | None:
        """Return the request to a consumer."""
        return self._row(consumer).values_list("request", flat=True).first()

    def answer(self, consumer: str, request: str, answer: str, *, quiet: bool) -> None:
        """Write the answer to a request, and whether the consumer is quiet now."""
        row = self._row(consumer).filter(request=request)
        row.update(request=None, answer=answer, quiet=quiet)

    def answered(self, consumer: str) -> tuple[str | None, str | None] | None:
        """Return the request and the last answer of a consumer; None if it has no row."""
        return self._row(consumer).values_list("request", "answer").first()

    def forget(self, consumer: str, answer: str) -> None:
        """Delete an answer that is read: a heartbeat would write it again each time."""
        self._row(consumer).filter(answer=answer).update(answer=None)

    def _row(self, consumer: str) -> QuerySet[Consumer]:
        return Consumer.objects.using(self._db.alias).filter(pk=consumer).order_by()
