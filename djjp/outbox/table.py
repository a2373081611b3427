"""The statements on the outbox's table, each on an alias that is named.

The application's database may be any that Django knows, so they are the plainest there are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from django.apps import apps
from django.db import OperationalError, ProgrammingError, connections

from djjp import conf
from djjp.durations import to_datetime, to_seconds
from djjp.engine import NewGraph, NewJob
from djjp.outbox import serialization

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from djjp.outbox.models import OutboxJob

_APP, _TABLE = "djjp_outbox", "djjp_outbox"


class Row(NamedTuple):
    """One row as it was read: an id, the job as text, and where it was asked for, when it was enqueued."""

    id: UUID
    text: str
    created_at: float = 0.0


def installed() -> bool:
    """Whether `djjp.outbox` is in INSTALLED_APPS."""
    return _APP in apps.app_configs


def outboxes() -> list[str]:
    """The aliases that have an outbox: none without the app, and never the queue's own."""
    settings = conf.current()
    return [a for a in settings.outbox if a != settings.db_name] if installed() else []


def write(alias: str, jobs: Sequence[NewJob | NewGraph]) -> None:
    """Write jobs and pipelines, a row for each, in the transaction that is open there."""
    model = _model()
    with _explained(alias):
        model._base_manager.using(alias).bulk_create(
            [
                model(
                    id=job.id,
                    job=serialization.to_text(job),
                    created_at=to_datetime(job.created_at),
                )
                for job in jobs
            ]
        )


def read(alias: str, ids: Sequence[UUID]) -> list[Row]:
    """Those of the rows with these ids that are there, by id."""
    # Beneath the ORM, which takes longer to put this together than the whole relay does otherwise.
    with _explained(alias), connections[alias].cursor() as cursor:
        cursor.execute(*_statement(alias, "SELECT id, job FROM {table} WHERE {those}", ids))
        found = [Row(_uuid(id), text) for id, text in cursor.fetchall()]
    return sorted(found, key=lambda row: row.id)


def page(alias: str, after: UUID | None, limit: int) -> list[Row]:
    """The first rows behind an id, by id."""
    found = _all(alias)
    if after is not None:
        found = found.filter(pk__gt=after)
    with _explained(alias):
        values = found.values_list("pk", "job", "created_at")[:limit]
        return [Row(id, text, to_seconds(at)) for id, text, at in values]


def there(alias: str, ids: Collection[UUID]) -> set[UUID]:
    """Which of these ids have a row."""
    with _explained(alias):
        return set(_all(alias).filter(pk__in=ids).values_list("pk", flat=True))


def delete(alias: str, ids: Sequence[UUID]) -> None:
    """Delete the rows with these ids."""
    with _explained(alias), connections[alias].cursor() as cursor:
        cursor.execute(*_statement(alias, "DELETE FROM {table} WHERE {those}", ids))


def rewrite(alias: str, id: UUID, text: str) -> None:
    """Put another text in the place of a row's."""
    with _explained(alias):
        _all(alias).filter(pk=id).update(job=text)


def _statement(alias: str, sql: str, ids: Sequence[UUID]) -> tuple[str, list[Any]]:
    """A statement on the rows with these ids, and its parameters as the database takes them."""
    model, connection = _model(), connections[alias]
    places = ", ".join(["%s"] * len(ids))
    table = connection.ops.quote_name(model._meta.db_table)
    field = model._meta.get_field("id")
    return (
        sql.format(table=table, those=f"id IN ({places})"),
        [field.get_db_prep_value(id, connection) for id in ids],
    )


def _uuid(value: Any) -> UUID:
    return value if isinstance(value, UUID) else UUID(value)


def _model() -> type[OutboxJob]:
    model: type[OutboxJob] = apps.get_model(_APP, "OutboxJob")
    return model


def _all(alias: str) -> QuerySet[OutboxJob]:
    return _model()._base_manager.using(alias).order_by("pk")


@contextmanager
def _explained(alias: str) -> Iterator[None]:
    """Say what to do where the table is missing."""
    try:
        yield
    except (OperationalError, ProgrammingError) as error:
        if _TABLE not in str(error):
            raise
        raise type(error)(
            f"the outbox of {alias!r} cannot be used: {error}; "
            f"if its table was never made, run: python manage.py migrate --database={alias}"
        ) from error
