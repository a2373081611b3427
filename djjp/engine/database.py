"""What all verbs stand on: an alias, its connection, a transaction, and times and ids as it takes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from djjp.models import Job

TABLE = Job._meta.db_table

#: The columns that an insert names, in the order of `NewJob`; attempts and rescues are 0 …
INSERT_COLUMNS = (
    "id, name, queue, priority, state, run_after, created_at, arguments, on_crash, flags,"
    " attempts, rescues"
)
#: … and those that few jobs have a value in.
MORE_COLUMNS = "pipeline, waits_for, unique_key, limit_key, limit_max, limit_per, expires_at"


class OnDatabase(ABC):
    """One database alias. It holds no state of the connection: it serves every thread, each on its own one."""

    def __init__(self, alias: str) -> None:
        self.alias = alias

    @property
    def connection(self) -> BaseDatabaseWrapper:
        return connections[self.alias]

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One transaction in which a consumer finishes and claims."""
        with transaction.atomic(using=self.alias):
            yield

    def announce(self) -> None:  # noqa: B027  (a database whose writes are seen by themselves needs none)
        """Wake idle consumers once the open transaction commits."""

    @abstractmethod
    def _within(self, column: str) -> str:
        """A condition: the column is one of the ids in the one parameter, which `_id_list` makes."""

    @abstractmethod
    def _id_list(self, ids: Iterable[UUID]) -> Any: ...

    def _selected(self, columns: str) -> str:
        """The beginning of a SELECT of many rows, which `_fetched` reads."""
        return f"SELECT {columns}"

    def _fetched(self, cursor: Any) -> Sequence[Sequence[Any]]:
        rows: Sequence[Sequence[Any]] = cursor.fetchall()
        return rows

    def _seconds(self, value: Any) -> float:
        """A time that this database gave back; a naive one is in the zone that Django keeps it in."""
        if timezone.is_naive(value):
            zone = self.connection.timezone or timezone.get_default_timezone()
            value = timezone.make_aware(value, zone)
        seconds: float = value.timestamp()
        return seconds

    def _stamp(self, seconds: float) -> Any:
        """A time in the form in which a parameter carries it to this database."""
        return datetime.fromtimestamp(seconds, UTC)


def moment(seconds: float) -> datetime:
    """A time as the ORM wants it: aware where `USE_TZ` is on, local where it is off."""
    aware = datetime.fromtimestamp(seconds, UTC)
    return aware if settings.USE_TZ else timezone.make_naive(aware)


def epoch(value: datetime) -> float:
    """The seconds of a time that the ORM gave."""
    aware = timezone.make_aware(value) if timezone.is_naive(value) else value
    return aware.timestamp()
