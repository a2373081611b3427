"""Transfer: move all rows of a queue to another database, in parts.

A part is read and locked in the source, written and committed in the target, and then deleted and committed
in the source. So a process that is killed leaves at most one part in both databases, and the source still has it
whole: the next run writes it again over what is there. Nothing is lost, and nothing is there twice at the end.

Meanwhile no consumer must run a job of either database. A row of `Transfer` in each, written before the
first part, keeps consumers from starting there until all is moved.

Enqueuers can go on, on both sides. What the source gets after the last part is moved by the next run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import reduce
from operator import add
from typing import Any
from uuid import UUID

from django.apps import apps
from django.core.management.color import no_style
from django.db import IntegrityError
from django.db.models import Field, ForeignKey, Model, QuerySet, TextField, Value
from django.db.models.functions import Coalesce, Length

from djjp.durations import to_datetime
from djjp.engine.engine import Engine
from djjp.models import (
    LIVE,
    Consumer,
    Depth,
    Flag,
    Incident,
    Job,
    Operation,
    RateStart,
    Release,
    Schedule,
    State,
    Total,
    TotalEntry,
    Transfer,
)

# The most rows of a part, and the most characters of their texts, unless a single row has more.
_ROWS, _CHARACTERS = 1000, 16 * 1024**2
# How often a part is tried that an enqueuer of the target has made fail by taking a unique key.
_TRIES = 5

#: The tables whose rows belong to one database.
STAYING: tuple[type[Model], ...] = (
    Consumer,
    Transfer,
    # The history of the database, which goes on in the other one.
    Total,
    TotalEntry,
    Depth,
    Incident,
    Operation,
    Release,
)
# What tells whether a row was moved before, where that is not the primary key.
_IDENTITIES: dict[type[Model], tuple[str, ...]] = {
    RateStart: ("key", "until", "count"),
    Schedule: ("source", "name"),
}


class Transferring:
    """One run of a transfer.

    Args:
        on_part: called with the number of rows of each part that was moved.
    """

    def __init__(self, source: Engine, target: Engine, on_part: Callable[[int], object]) -> None:
        self._source = source
        self._target = target
        self._on_part = on_part

    # The marks

    def begin(self) -> Callable[[], None]:
        """Mark both databases; return what takes the marks back, for a transfer that moves nothing.

        Raises:
            ValueError: another transfer is unfinished, or the target has rows that are not from this source.
        """
        source, target = self._source.db.alias, self._target.db.alias
        outgoing, incoming = self._source.consumers.transfer(), self._target.consumers.transfer()
        for mark, other in ((outgoing, target), (incoming, source)):
            if mark is not None and mark.other != other:
                raise ValueError(f"the {mark} is unfinished; run it again first")
        before = [list(Transfer.objects.using(alias)) for alias in (source, target)]
        if not self._continues():
            if rows := _count(self._target):
                raise ValueError(
                    f"the database {target!r} has {rows:,} rows of its own, which {source!r} has not sent; "
                    "give an empty queue"
                )
            mark = Transfer(started_at=to_datetime(time.time()))
            self._mark(self._source, mark, target, incoming=False)
            self._mark(self._target, mark, source, incoming=True)
        else:
            for alias in (source, target):
                Transfer.objects.using(alias).update(finished_at=None)

        def take_back() -> None:
            for alias, marks in zip((source, target), before, strict=True):
                Transfer.objects.using(alias).all().delete()
                Transfer.objects.using(alias).bulk_create(marks)

        return take_back

    def _continues(self) -> bool:
        """Return whether the target has the mark of the source's last transfer."""
        outgoing = Transfer.objects.using(self._source.db.alias).filter(incoming=False).first()
        incoming = Transfer.objects.using(self._target.db.alias).filter(incoming=True).first()
        return None not in (outgoing, incoming) and outgoing == incoming

    def _mark(self, engine: Engine, mark: Transfer, other: str, *, incoming: bool) -> None:
        with engine.db.transaction():
            Transfer.objects.using(engine.db.alias).all().delete()
            mark.other, mark.incoming = other, incoming
            mark.save(using=engine.db.alias, force_insert=True)

    def finish(self) -> None:
        """Let consumers start again, first on the target."""
        target = self._target.db
        with target.transaction(), target.connection.cursor() as cursor:
            for statement in target.connection.ops.sequence_reset_sql(no_style(), [Schedule]):
                cursor.execute(statement)
            target.notify()
        for engine in (self._target, self._source):
            rows = Transfer.objects.using(engine.db.alias)
            rows.update(finished_at=to_datetime(time.time()))

    # The rows

    def count(self) -> int:
        """Return the number of rows to move."""
        return _count(self._source)

    def move(self) -> None:
        """Move all rows, also those that enqueuers add meanwhile."""
        while sum(self._move_table(model) for model in _tables()):
            pass

    def _move_table(self, model: type[Model]) -> int:
        moved, last = 0, None
        while rows := self._move_part(model, last):
            moved, last = moved + len(rows), rows[-1]
            self._on_part(len(rows))
        return moved

    def _move_part(self, model: type[Model], after: Any) -> list[Any]:
        """Move the first rows after one and return their primary keys."""
        with self._source.db.transaction():
            rows = _first(model._base_manager.using(self._source.db.alias), after)
            keys = [row.pk for row in rows]
            if rows:
                self._write(model, rows)
                for child, name in _children(model):
                    self._move_children(child, {f"{name}__in": keys})
                _delete(self._source, model, ("pk",), rows, keys)
        return keys

    def _write(self, model: type[Model], rows: Sequence[Any]) -> None:
        for last in (*[False] * (_TRIES - 1), True):
            try:
                with self._target.db.transaction():
                    for child, name in _children(model):
                        keys = [row.pk for row in rows]
                        _all(self._target, child, {f"{name}__in": keys}).delete()
                    there = _there(self._target, rows) if model is Job else set()
                    _delete(self._target, model, _IDENTITIES.get(model, ("pk",)), rows)
                    if model is Job:
                        self._resolve_unique_keys(rows, there)
                    self._insert(model, rows)
                return
            except IntegrityError:
                if last:
                    raise

    def _move_children(self, child: type[Model], belonging: dict[str, Any]) -> None:
        """Move the rows that refer to those of a part, which the target has by now."""
        after = None
        while rows := _first(_all(self._source, child, belonging), after):
            after = rows[-1].pk
            keys = [row.pk for row in rows]
            with self._target.db.transaction():
                self._insert(child, rows)
            _delete(self._source, child, ("pk",), rows, keys)
            self._on_part(len(rows))

    def _insert(self, model: type[Model], rows: Sequence[Any]) -> None:
        if model is not Schedule and model._meta.auto_field is not None:
            for row in rows:
                row.pk = None
        model._base_manager.using(self._target.db.alias).bulk_create(rows)

    def _resolve_unique_keys(self, jobs: Sequence[Job], there: Collection[UUID]) -> None:
        """Give way to live jobs of the target that have the unique keys of some jobs.

        They were enqueued there since. As when it comes from an outbox, such a job enters as cancelled; where
        others depend on it, it enters without the key.

        Args:
            there: the jobs that an earlier run has written, and counted.
        """
        ended = []
        keyed = {job.unique_key: job for job in jobs if job.unique_key and job.state in LIVE}
        held = _all(self._target, Job, {"unique_key__in": [*keyed], "state__in": LIVE})
        for key, holder in held.values_list("unique_key", "pk") if keyed else ():
            job = keyed[key]
            if job.flags & Flag.HAS_DEPENDENTS:
                job.unique_key = None
                job.flags &= ~(Flag.UNIQUE | Flag.UNTIL_START)
            else:
                job.state, job.finished_at = State.CANCELLED, to_datetime(time.time())
                job.reason = f"job {holder} has its unique key"
                if job.pk not in there:
                    ended.append((job.queue, job.name, job.flags))
        self._target.totals.count(State.CANCELLED, ended)


def _tables() -> list[type[Model]]:
    """Return the models of the rows to move, except those of rows that go with the rows they refer to."""
    return [model for model in _moving() if not any(_references(model))]


def _moving() -> Iterator[type[Model]]:
    return (each for each in apps.get_app_config("djjp").get_models() if each not in STAYING)


def _children(model: type[Model]) -> list[tuple[type[Model], str]]:
    """Return the models whose rows refer to those of a model, each with the name of its field."""
    return [
        (child, field.name)
        for child in _moving()
        for field in _references(child)
        if field.related_model is model
    ]


def _references(model: type[Model]) -> Iterator[Any]:
    return (field for field in model._meta.concrete_fields if isinstance(field, ForeignKey))


def _count(engine: Engine) -> int:
    return sum(model._base_manager.using(engine.db.alias).count() for model in _moving())


def _there(engine: Engine, jobs: Sequence[Job]) -> set[UUID]:
    return {*_all(engine, Job, {"pk__in": [job.pk for job in jobs]}).values_list("pk", flat=True)}


def _all(engine: Engine, model: type[Model], belonging: dict[str, Any]) -> QuerySet[Any]:
    return model._base_manager.using(engine.db.alias).filter(**belonging)


def _first(rows: QuerySet[Any], after: Any) -> list[Any]:
    """Return the first rows after a primary key, locked, up to the size of a part."""
    rows = rows.order_by("pk") if after is None else rows.filter(pk__gt=after).order_by("pk")
    texts = [f.name for f in rows.model._meta.concrete_fields if isinstance(f, TextField)]
    size: Any = reduce(add, (Coalesce(Length(text), 0) for text in texts), Value(0))
    number = total = 0
    for (characters,) in rows.annotate(size=size).values_list("size")[:_ROWS]:
        total += characters
        if number and total > _CHARACTERS:
            break
        number += 1
    return list(rows.select_for_update()[:number]) if number else []


def _delete(
    engine: Engine,
    model: type[Model],
    names: Sequence[str],
    rows: Sequence[Any],
    keys: Sequence[Any] | None = None,
) -> None:
    """Delete the rows that have the values of some rows in these fields.

    Args:
        keys: the primary keys of the rows, if they were changed since they were read.
    """
    connection, table = engine.db.connection, model._meta.db_table
    fields: list[Field[Any, Any]] = (
        list(model._meta.pk_fields)
        if names == ("pk",)
        else [model._meta.get_field(name) for name in names]  # type: ignore[misc]  # they have columns
    )
    where = " AND ".join(f"{connection.ops.quote_name(str(f.column))} = %s" for f in fields)
    if keys is None:
        values = [[getattr(row, str(f.attname)) for f in fields] for row in rows]
    else:
        values = [list(key) if isinstance(key, tuple) else [key] for key in keys]
    params = [
        [f.get_db_prep_value(v, connection) for f, v in zip(fields, each, strict=True)]
        for each in values
    ]
    with connection.cursor() as cursor:
        cursor.executemany(f"DELETE FROM {connection.ops.quote_name(table)} WHERE {where}", params)
