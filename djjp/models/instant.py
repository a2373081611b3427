"""Moments in the queue's tables: kept in UTC, so that no setting and no change of the clocks moves them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models.expressions import Col
from django.utils import timezone

from djjp.durations import END_OF_TIME, START_OF_TIME, to_datetime, to_utc

# The first and the last moment that the ORM gives, as the text of a column of SQLite.
_FIRST, _LAST = (str(to_utc(each).replace(tzinfo=None)) for each in (START_OF_TIME, END_OF_TIME))
# How a column is read. Rows by hand can have infinite times, years that Python does not have, and in SQLite
# anything: the driver would refuse the whole answer for one of them. Time zones lack the ends of the calendar.
_READ_TIME = (
    f"CASE WHEN {{0}} < timestamptz '{_FIRST}Z' THEN timestamptz '{_FIRST}Z'"
    f" WHEN {{0}} > timestamptz '{_LAST}Z' THEN timestamptz '{_LAST}Z' ELSE {{0}} END"
)
# `datetime()` alone takes 30 February and 24:00.
_READ_TEXT = (
    f"CASE WHEN typeof({{0}}) = 'text' AND {{0}} > '{_LAST}' THEN '{_LAST}'"
    f" WHEN {{0}} IS NULL OR typeof({{0}}) = 'text' AND {{0}} >= '{_FIRST}'"
    " AND {0} GLOB '[0-9][0-9][0-9][0-9]-*:*'"
    " AND date(substr({0}, 1, 10), '+0 days') = substr({0}, 1, 10)"
    " AND substr({0}, 12, 2) < '24' AND datetime({0}) IS NOT NULL"
    f" THEN {{0}} ELSE '{_FIRST}' END"
)


class InstantField(models.DateTimeField):  # type: ignore[type-arg]  # the stubs' parameters are not there at runtime
    """A `DateTimeField` whose column is in UTC, whatever `USE_TZ` and `TIME_ZONE` are.

    The ORM gives and takes its values as those of any other: aware with `USE_TZ`, else naive in `TIME_ZONE`.
    Of a row by hand it gives the earliest or the latest time that every time zone has for a time that is none.
    """

    def select_format(self, compiler: Any, sql: str, params: Any) -> tuple[str, Any]:
        has_zones = compiler.connection.features.supports_timezones
        read = _READ_TIME if has_zones else _READ_TEXT
        return read.format(sql), [*params] * read.count("{0}")

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        if not prepared:
            value = self.get_prep_value(value)
        if not isinstance(value, datetime):
            return super().get_db_prep_value(value, connection, prepared=True)
        if timezone.is_naive(value):
            value = value.replace(tzinfo=timezone.get_default_timezone())
        value = value.astimezone(UTC)
        # A database without time zones keeps text, and compares it.
        return value if connection.features.supports_timezones else str(value.replace(tzinfo=None))

    def from_db_value(self, value: Any, expression: object, connection: Any) -> Any:
        if value is None and isinstance(expression, Col) and not self.null:
            return to_datetime(START_OF_TIME)  # in a table of another version
        if value is None or connection.features.supports_timezones:
            return value
        aware = value.replace(tzinfo=UTC)  # text has no zone, whichever one Django has put there
        return (
            aware
            if settings.USE_TZ
            else timezone.make_naive(aware, timezone.get_default_timezone())
        )
