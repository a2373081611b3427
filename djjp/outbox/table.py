"""The statements on the outbox's table; each takes the alias of its database.

The application's database can be any that Django supports, so only the plainest SQL is used.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from django.apps import apps
from django.db import Error as DatabaseError
from django.db import OperationalError, ProgrammingError, connections, transaction
from django.db.models.functions import Length

from djjp import conf
from djjp.bounds import READ_TEXT, one_line, storable
from djjp.databases import execute_many
from djjp.durations import to_datetime, to_seconds
from djjp.engine import NewJob, NewPipeline, entries, row_locks
from djjp.outbox import serialization

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from djjp.outbox.models import OutboxJob

logger = logging.getLogger("djjp.outbox")

#: The label of the app, and the name of its table.
LABEL, NAME = "djjp_outbox", "djjp_outbox"
# The length to which the reason why a row is set aside is cut, in characters.
_MAX_PROBLEM = 2_000


class Waiting(NamedTuple):
    """A row that waits for its relay: its id, and the length of its text in characters."""

    id: UUID
    size: int


class Row(NamedTuple):
    """One row as it was read. A row with a problem is set aside."""

    id: UUID
    text: str
    cancelled: bool
    problem: str | None


class SetAside(NamedTuple):
    """A row that is set aside: its key, which is an id unless that is the problem, its time, and the reason.

    Attributes:
        size: the length of its text in characters.
    """

    key: UUID | str
    enqueued: str
    problem: str
    size: int


def installed() -> bool:
    """Return whether `djjp.outbox` is in INSTALLEDLABELS."""
    return LABEL in apps.app_configs


def outboxes() -> list[str]:
    """Return the aliases that have an outbox: none without the app, and never the queue's own."""
    settings = conf.current()
    return [a for a in settings.outbox if a != settings.db_name] if installed() else []


def write(alias: str, jobs: Sequence[NewJob | NewPipeline]) -> list[Waiting]:
    """Write one row for each job or pipeline, in the transaction that is open there."""
    # By a raw cursor, as in `read`. The other columns have their defaults.
    connection, options = connections[alias], _model()._meta
    id_field: Any = options.get_field("id")
    time_field: Any = options.get_field("created_at")
    texts = [serialization.to_text(job) for job in jobs]
    rows = [
        (
            id_field.get_db_prep_save(job.id, connection),
            text,
            time_field.get_db_prep_save(to_datetime(job.created_at), connection),
        )
        for job, text in zip(jobs, texts, strict=True)
    ]
    sql = "INSERT INTO {table} (id, job, created_at) VALUES (%s, %s, %s)"
    statement, _ = _statement(alias, sql, [])
    with named(alias), connection.cursor() as cursor:
        if len(rows) == 1:
            cursor.execute(statement, rows[0])
        else:
            execute_many(cursor, statement, rows)
    return [Waiting(job.id, len(text)) for job, text in zip(jobs, texts, strict=True)]


def waiting(alias: str, after: UUID | None, limit: int, *, grace: float = 0.0) -> list[Waiting]:
    """Return up to `limit` rows after an id, in order of their ids, without those that are set aside.

    A row whose id is no UUID is set aside here, because no relay can name it.

    Args:
        grace: leave out rows that were enqueued in these last seconds.
    """
    found = _all(alias).filter(problem__isnull=True)
    if after is not None:
        found = found.filter(pk__gt=after)
    if grace:
        now = time.time()
        # A row from the future, by the clock of another machine, is not young.
        young = {"created_at__gt": to_datetime(now - grace), "created_at__lte": to_datetime(now)}
        found = found.exclude(**young)
    # By a raw cursor: one value that Django cannot convert would hide all other rows.
    sql, params = found.values_list("pk", Length("job"))[:limit].query.get_compiler(alias).as_sql()
    with _reading(alias) as cursor:
        cursor.execute(sql, params)
        rows = cursor.fetchall()
    listed: list[Waiting] = []
    for key, size in rows:
        id = _known(alias, key)
        if id is None:
            set_aside(alias, key, "its id is no UUID in the form in which djjp writes it")
        else:
            listed.append(Waiting(id, size or 0))
    return listed


def read(alias: str, ids: Sequence[UUID]) -> list[Row]:
    """Return the rows with these ids that exist, in order of their ids."""
    # A raw cursor, because the ORM takes longer to build this query than all the rest of the relay.
    columns = "SELECT id, job, cancelled, problem FROM {table} WHERE {condition}"
    with _reading(alias) as cursor:
        cursor.execute(*_statement(alias, columns, ids))
        found = [
            Row(_uuid(id), text, cancelled in (True, 1), problem or None)
            for id, text, cancelled, problem in cursor.fetchall()
        ]
    return sorted(found, key=lambda row: row.id)


def existing(alias: str, ids: Collection[UUID]) -> set[UUID]:
    """Return which of these ids have a row."""
    with named(alias):
        return set(_all(alias).filter(pk__in=ids).values_list("pk", flat=True))


def uncancelled(alias: str, ids: Collection[UUID]) -> set[UUID]:
    """Return which of these ids have a row that was not cancelled."""
    with named(alias):
        rows = _all(alias).filter(pk__in=ids).exclude(cancelled=True)
        return set(rows.values_list("pk", flat=True))


def delete(alias: str, rows: Sequence[Row]) -> int:
    """Delete rows; return the number of deleted rows.

    Left are rows that were cancelled since they were read, and rows that another transaction has locked, which may
    be about to cancel them.
    """
    if row_locks.in_subqueries(alias):
        # In one statement, because a request waits for it.
        skipping = "id IN (SELECT id FROM {table} WHERE {condition} FOR UPDATE SKIP LOCKED)"
        return _delete(alias, rows, skipping)
    with _unlocked(alias, [row.id for row in rows]) as unlocked:
        return _delete(alias, [row for row in rows if row.id in unlocked], "{condition}")


def _delete(alias: str, rows: Sequence[Row], condition: str) -> int:
    sql, count = "DELETE FROM {table} WHERE {condition}".replace("{condition}", condition), 0
    # A row by hand that is neither counts as not cancelled.
    for cancelled, as_read in (
        (True, " AND cancelled = %s"),
        (False, " AND (cancelled <> %s OR cancelled IS NULL)"),
    ):
        ids = [row.id for row in rows if row.cancelled is cancelled]
        if ids:
            with named(alias), connections[alias].cursor() as cursor:
                statement, params = _statement(alias, sql, ids)
                cursor.execute(statement + as_read, [*params, True])
                count += cursor.rowcount
    return count


def cancel(alias: str, id: UUID) -> bool:
    """Mark a row as cancelled; return False if there is no such row (any more)."""
    with named(alias):
        return _all(alias).filter(pk=id).update(cancelled=True) > 0


# Rows that are set aside


def set_aside(alias: str, key: UUID | str, problem: str) -> None:
    """Keep a row that cannot be relayed for a person, and log it, unless another process did so before.

    A row that another transaction has locked is left to the next relay.
    """
    problem = storable(one_line(problem), _MAX_PROBLEM)
    sql = "UPDATE {table} SET problem = %s WHERE {condition} AND problem IS NULL"
    found = False
    with _unlocked(alias, [key]) as unlocked:
        if key in unlocked:
            with connections[alias].cursor() as cursor:
                statement, params = _statement(alias, sql, [key])
                cursor.execute(statement, [problem, *params])
                found = cursor.rowcount > 0
    if found:
        logger.error(
            "job %s in the outbox of %r is refused by the queue and set aside: %s; see manage.py djjp outbox",
            key,
            alias,
            problem,
        )


def count_waiting(alias: str, most: int | None = None) -> int:
    """Return the number of rows that wait for their relay.

    Args:
        most: the number at which the count ends; None for none.
    """
    with named(alias):
        rows = _all(alias).filter(problem__isnull=True).order_by()
        return (rows if most is None else rows[:most]).count()


def count_set_aside(alias: str, most: int) -> int:
    """Return the number of rows that are set aside, because the queue has refused them, up to `most`."""
    return _all(alias).filter(problem__isnull=False).order_by()[:most].count()


def oldest(alias: str) -> float | None:
    """Return when the first of the rows that wait for their relay was enqueued; None if none waits."""
    with named(alias):
        rows = _all(alias).filter(problem__isnull=True).values_list("created_at", flat=True)
        return next((to_seconds(at) for at in rows[:1]), None)


def rows_set_aside(alias: str, limit: int | None = None) -> list[SetAside]:
    """Return the rows that are set aside, oldest first.

    Args:
        limit: the number of rows to return at most; None for all.
    """
    rows_of = _all(alias).filter(problem__isnull=False)
    found = rows_of.values_list("pk", "created_at", "problem", Length("job"))
    # By a raw cursor, as in `waiting`.
    sql, params = found[:limit].query.get_compiler(alias).as_sql()
    with _reading(alias) as cursor:
        cursor.execute(sql, params)
        rows = cursor.fetchall()
    return [
        SetAside(_known(alias, key) or key, str(at), text, size or 0)
        for key, at, text, size in sorted(rows, key=str)
    ]


def restore(alias: str, key: UUID | str) -> None:
    """Have a row that is set aside relayed again."""
    with named(alias), connections[alias].cursor() as cursor:
        cursor.execute(
            *_statement(alias, "UPDATE {table} SET problem = NULL WHERE {condition}", [key])
        )


def drop(alias: str, key: UUID | str) -> None:
    """Delete a row that is set aside: its job never enters the queue."""
    sql = "DELETE FROM {table} WHERE {condition} AND problem IS NOT NULL"
    with named(alias), connections[alias].cursor() as cursor:
        cursor.execute(*_statement(alias, sql, [key]))


def _statement(alias: str, sql: str, ids: Sequence[UUID | str]) -> tuple[str, list[Any]]:
    """Return a statement on the rows with these ids, and its parameters as the database takes them."""
    model, connection = _model(), connections[alias]
    placeholders = ", ".join(["%s"] * len(ids))
    table = connection.ops.quote_name(model._meta.db_table)
    field = model._meta.get_field("id")
    return (
        sql.format(table=table, condition=f"id IN ({placeholders})"),
        [field.get_db_prep_value(id, connection) if isinstance(id, UUID) else id for id in ids],
    )


def _known(alias: str, key: Any) -> UUID | None:
    """Return the id that a column holds; None if it is in no form in which `read` finds it."""
    try:
        id = _uuid(key)
    except (ValueError, TypeError, AttributeError):
        return None
    prepared = _model()._meta.get_field("id").get_db_prep_value(id, connections[alias])
    return id if key in (id, prepared) else None


def _uuid(value: Any) -> UUID:
    return value if isinstance(value, UUID) else UUID(value)


def _model() -> type[OutboxJob]:
    model: type[OutboxJob] = apps.get_model(LABEL, "OutboxJob")
    return model


def _all(alias: str) -> QuerySet[OutboxJob]:
    return _model()._base_manager.using(alias).order_by("pk")


@contextmanager
def _reading(alias: str) -> Iterator[Any]:
    """Yield a cursor that reads any text; SQLite's would refuse a page for one that is no UTF-8, by hand."""
    with named(alias), connections[alias].cursor() as cursor:
        driver: Any = connections[alias].connection
        strict = getattr(driver, "text_factory", None)
        if strict is not None:
            driver.text_factory = READ_TEXT
        try:
            yield cursor
        finally:
            if strict is not None:
                driver.text_factory = strict


@contextmanager
def _unlocked(alias: str, keys: Sequence[UUID | str]) -> Iterator[Collection[UUID | str]]:
    """Yield those of the rows that no other transaction has locked; lock them for the block.

    A statement that waits for one row delays all others, for as long as the application's transaction lasts. If it
    has locked some before, it can end in a deadlock, for which the database may abort that transaction.
    """
    with named(alias):
        connection = connections[alias]
        if not connection.features.has_select_for_update_skip_locked:
            yield keys
            return
        sql = "SELECT id FROM {table} WHERE {condition} "
        sql += connection.ops.for_update_sql(skip_locked=True)
        with transaction.atomic(alias, savepoint=False), connection.cursor() as cursor:
            cursor.execute(*_statement(alias, sql, keys))
            found = {key for (key,) in cursor.fetchall()}
            yield {_known(alias, key) or key for key in found}


@contextmanager
def named(alias: str) -> Iterator[None]:
    """Add to an error whose outbox it concerns, and to one about the outbox's table how to create it.

    Raises:
        ImproperlyConfigured: the driver refuses the alias' entry in `DATABASES`.
    """
    try:
        if connections[alias].connection is None:
            entries.connect(alias)
        yield
    except DatabaseError as error:
        if not (isinstance(error, (OperationalError, ProgrammingError)) and NAME in str(error)):
            error.add_note(f"the outbox of {alias!r} cannot be used")
            raise
        raise type(error)(
            f"the outbox of {alias!r} cannot be used: {error}; "
            f"if its table was never created, run: python manage.py migrate --database={alias}"
        ) from error
