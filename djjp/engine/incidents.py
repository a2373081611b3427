"""Incidents: the rows of what is wrong with the queue, each opened once and closed once.

A unique index admits one open row for each kind and subject. So of several processes that detect the same at the
same time one opens the row, and one closes it later: the process whose statement has changed the row. That process
announces it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from django.db.models import QuerySet

from djjp.durations import to_datetime, to_seconds
from djjp.engine.database import Database
from djjp.ids import new_id
from djjp.jsontext import loads
from djjp.models import Incident

_TABLE = Incident._meta.db_table
_IF_NEW = "ON CONFLICT (kind, subject) WHERE closed_at IS NULL DO NOTHING"
_OPEN = f"""INSERT INTO {_TABLE} (id, kind, subject, opened_at, seen_at, facts)
VALUES (%s, %s, %s, %s, %s, %s) {_IF_NEW}"""

# Many at once, in the order of their keys.
_COLUMNS = {"id": "uuid", "kind": "text", "subject": "text", "facts": "text"}
_OPEN_ALL = f"""INSERT INTO {_TABLE} (id, kind, subject, opened_at, seen_at, facts)
SELECT id, kind, subject, %s, %s, facts FROM {{given}} WHERE true {_IF_NEW} RETURNING kind, subject"""
_KEEP_ALL = f"""UPDATE {_TABLE} SET seen_at = %s, facts = given.facts FROM {{given}}
WHERE {_TABLE}.kind = given.kind AND {_TABLE}.subject = given.subject AND {_TABLE}.closed_at IS NULL
RETURNING {_TABLE}.kind, {_TABLE}.subject"""

#: The number of open incidents that are read: a look finds no more of them.
MOST_OPEN = 1000
#: The number of closed incidents that are kept.
MOST_CLOSED = 10_000
#: Seconds after which an incident that still holds is written again.
SEEN_EVERY = 4.0


class Found(NamedTuple):
    """Something that is wrong now.

    Attributes:
        kind: the word of `djjp.monitoring.incidents`.
        subject: what it is about.
        facts: the figures of its sentence.
        sums: the names of the facts that are added to those of the open incident.
        peaks: the names of the facts of which the open incident keeps the largest.
    """

    kind: str
    subject: str
    facts: Mapping[str, Any]
    sums: Collection[str] = ()
    peaks: Collection[str] = ()

    @property
    def key(self) -> tuple[str, str]:
        """The kind and the subject, which no other open incident has."""
        return self.kind, self.subject

    @property
    def is_plain(self) -> bool:
        """Return True if no fact of the open incident is added to these, or compared with them."""
        return not (self.sums or self.peaks)


class Incidents:
    """Open, keep, close and prune incidents."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def open(self) -> list[Incident]:
        """Return the open incidents."""
        return list(self._open()[:MOST_OPEN])

    def record(
        self, found: Iterable[Found], now: float, rows: Sequence[Incident] | None = None
    ) -> list[Incident]:
        """Open an incident for each of these, or write that the open one still holds; return those opened here.

        Args:
            rows: the open incidents, if the caller has just read them.
        """
        each = {one.key: one for one in found}
        # In one order, so that two processes never wait for each other in a circle.
        wanted = [each[key] for key in sorted(each)]
        if not wanted:
            return []
        is_open = {(row.kind, row.subject): row for row in (self.open() if rows is None else rows)}
        wanted = [one for one in wanted if _must_write(one, is_open.get(one.key), now)]
        if not wanted:
            return []
        with self._db.transaction():
            opened = self._write([one for one in wanted if one.is_plain], is_open, now)
            for one in wanted:
                if one.is_plain or (one.key in is_open and self._merge(one, now)):
                    continue
                row = self._insert(one, now)
                if row is None:
                    self._merge(one, now)
                else:
                    opened.append(row)
        return opened

    def _write(
        self, wanted: Sequence[Found], is_open: Collection[tuple[str, str]], now: float
    ) -> list[Incident]:
        """Write those with nothing to merge, in a statement for all that are open and one for all others."""
        kept = self._keep([one for one in wanted if one.key in is_open], now)
        rows = {one.key: _row(one, now) for one in wanted if one.key not in kept}
        if not rows:
            return []
        id = Incident._meta.get_field("id")
        given, params = self._db.records(
            _COLUMNS,
            [
                (str(id.get_db_prep_save(row.pk, self._db.connection)), *key, row.facts)
                for key, row in rows.items()
            ],
        )
        with self._db.connection.cursor() as cursor:
            times = [self._db.to_param(now)] * 2
            cursor.execute(_OPEN_ALL.format(given=given), [*times, *params])
            # Another process opens the others at this moment.
            return [rows[key] for key in sorted(map(tuple, cursor.fetchall()))]

    def _keep(self, wanted: Sequence[Found], now: float) -> set[tuple[str, str]]:
        """Write that incidents still hold; return the keys of those that are open."""
        if not wanted:
            return set()
        values = [(one.kind, one.subject, json.dumps(one.facts)) for one in wanted]
        columns = {name: kind for name, kind in _COLUMNS.items() if name != "id"}
        given, params = self._db.records(columns, values)
        if self._db.locks_rows:  # a statement with a join locks in any order
            rows = self._open().filter(kind__in={one.kind for one in wanted})
            list(rows.order_by("kind", "subject").select_for_update().values_list("pk"))
        with self._db.connection.cursor() as cursor:
            cursor.execute(_KEEP_ALL.format(given=given), [self._db.to_param(now), *params])
            return {(kind, subject) for kind, subject in cursor.fetchall()}

    def close(self, rows: Sequence[Incident], now: float) -> list[Incident]:
        """Close incidents that nobody has found to hold since they were read; return those closed here."""
        closed = []
        for row in sorted(rows, key=lambda row: (row.kind, row.subject)):
            unchanged = self._open().filter(pk=row.pk, seen_at=row.seen_at)
            if unchanged.update(closed_at=to_datetime(now)):
                row.closed_at = to_datetime(now)
                closed.append(row)
        return closed

    def prune(self, before: float) -> int:
        """Delete incidents that were closed before a time, and those beyond the newest `MOST_CLOSED`.

        Returns:
            Their number.
        """
        closed = Incident.objects.using(self._db.alias).filter(closed_at__isnull=False)
        deleted, _ = closed.filter(closed_at__lt=to_datetime(before)).delete()
        beyond = closed.order_by("-pk").values_list("pk", flat=True)[MOST_CLOSED : MOST_CLOSED + 1]
        for last in list(beyond):
            more, _ = closed.filter(pk__lte=last).delete()
            deleted += more
        return deleted

    def _open(self) -> QuerySet[Incident]:
        return Incident.objects.using(self._db.alias).filter(closed_at__isnull=True)

    def _insert(self, found: Found, now: float) -> Incident | None:
        """Open an incident; return None if it is open."""
        row = _row(found, now)
        id = Incident._meta.get_field("id").get_db_prep_save(row.pk, self._db.connection)
        times = [self._db.to_param(now)] * 2
        with self._db.connection.cursor() as cursor:
            cursor.execute(_OPEN, [id, row.kind, row.subject, *times, row.facts])
            return row if cursor.rowcount > 0 else None

    def _merge(self, found: Found, now: float) -> bool:
        """Write that an incident still holds, with the facts that it had; return whether it is open."""
        rows, at = self._open().filter(kind=found.kind, subject=found.subject), to_datetime(now)
        is_open = False
        for row in rows.select_for_update() if self._db.locks_rows else rows:
            facts = json.dumps(_merged(found, facts_of(row)))
            is_open = bool(rows.filter(pk=row.pk).update(seen_at=at, facts=facts))
        return is_open


def _row(found: Found, now: float) -> Incident:
    """Return the row of an incident that begins."""
    at = to_datetime(now)
    return Incident(
        pk=new_id(),
        kind=found.kind,
        subject=found.subject,
        opened_at=at,
        seen_at=at,
        facts=json.dumps(found.facts),
    )


def facts_of(row: Incident) -> dict[str, Any]:
    """Return the facts of an incident; none of a row by hand that has none."""
    facts = loads(row.facts)
    return facts if isinstance(facts, dict) else {}


def _merged(found: Found, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of an open incident, once it is found again."""
    facts = dict(found.facts)
    for names, merge in ((found.sums, sum), (found.peaks, max)):
        for name in names:
            if isinstance(earlier := before.get(name), (int, float)):
                facts[name] = merge((earlier, facts[name]))
    return facts


def _must_write(found: Found, row: Incident | None, now: float) -> bool:
    """Return whether an incident is new, has facts to add, or was not written lately."""
    return row is None or bool(found.sums) or abs(now - to_seconds(row.seen_at)) >= SEEN_EVERY
