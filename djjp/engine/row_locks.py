"""Row locks: where a statement can take them; on any database of the project, which need not be the queue's."""

from __future__ import annotations

from django.db import connections


def in_subqueries(alias: str) -> bool:
    """Return whether a subquery can lock rows, and skip those that others have locked, as on PostgreSQL.

    Others that can skip them need a query of its own: MySQL refuses a subquery on the table that it changes.
    """
    return connections[alias].vendor == "postgresql"
