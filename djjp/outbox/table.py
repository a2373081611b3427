"""The statements on the outbox's table; each takes the alias of its database.

The application's database can be any that Django supports, so only the plainest SQL is used.
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
    """One row as it was read: its id, the job as text and, from `page()` only, when it was enqueued."""

    id: UUID
    text: str
    created_at: float = 0.0


def installed() -> bool:
    """Return whether `djjp.outbox` is in INSTALLED_APPS."""
    return _APP in apps.app_configs


def outboxes() -> list[str]:
    """Return the aliases that have an outbox: none without the app, and never the queue's own."""
    settings = conf.current()
    return [a for a in settings.outbox if a != settings.db_name] if installed() else []


def write(alias: str, jobs: Sequence[NewJob | NewGraph]) -> None:
    """Write one row for each job or pipeline, in the transaction that is open there."""
    model = _model()
    with _with_hint(alias):
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
    """Return the rows with these ids that exist, in order of their ids."""
    # A raw cursor, because the ORM takes longer to build this query than all the rest of the relay.
    with _with_hint(alias), connections[alias].cursor() as cursor:
        cursor.execute(*_statement(alias, "SELECT id, job FROM {table} WHERE {condition}", ids))
        found = [Row(_uuid(id), text) for id, text in cursor.fetchall()]
    return sorted(found, key=lambda row: row.id)


def page(alias: str, after: UUID | None, limit: int) -> list[Row]:
    """Return up to `limit` rows after an id, in order of their ids."""
    found = _all(alias)
    if after is not None:
        found = found.filter(pk__gt=after)
    with _with_hint(alias):
        values = found.values_list("pk", "job", "created_at")[:limit]
        return [Row(id, text, to_seconds(at)) for id, text, at in values]


def existing(alias: str, ids: Collection[UUID]) -> set[UUID]:
    """Return which of these ids have a row."""
    with _with_hint(alias):
        return set(_all(alias).filter(pk__in=ids).values_list("pk", flat=True))


def delete(alias: str, ids: Sequence[UUID]) -> None:
    """Delete the rows with these ids."""
    with _with_hint(alias), connections[alias].cursor() as cursor:
        cursor.execute(*_statement(alias, "DELETE FROM {table} WHERE {condition}", ids))


def replace_text(alias: str, id: UUID, text: str) -> None:
    """Replace the text of a row."""
    with _with_hint(alias):
        _all(alias).filter(pk=id).update(job=text)


def _statement(alias: str, sql: str, ids: Sequence[UUID]) -> tuple[str, list[Any]]:
    """Return a statement on the rows with these ids, and its parameters as the database takes them."""
    model, connection = _model(), connections[alias]
    placeholders = ", ".join(["%s"] * len(ids))
    table = connection.ops.quote_name(model._meta.db_table)
    field = model._meta.get_field("id")
    return (
        sql.format(table=table, condition=f"id IN ({placeholders})"),
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
def _with_hint(alias: str) -> Iterator[None]:
    """Add to an error about the outbox's table how to create it."""
    try:
        yield
    except (OperationalError, ProgrammingError) as error:
        if _TABLE not in str(error):
            raise
        raise type(error)(
            f"the outbox of {alias!r} cannot be used: {error}; "
            f"if its table was never created, run: python manage.py migrate --database={alias}"
        ) from error
