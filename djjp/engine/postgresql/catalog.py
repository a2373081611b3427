"""Queries of PostgreSQL's own catalog: foreign keys, locks and schemas."""

from __future__ import annotations

#: Tables and columns with foreign keys that forbid to delete rows of a table.
REFERENCES = """SELECT conrelid::regclass::text, attname FROM pg_constraint
JOIN pg_attribute ON attrelid = conrelid AND attnum = conkey[1]
WHERE contype = 'f' AND confrelid = %s::regclass AND confdeltype IN ('a', 'r')"""

#: Whether this session holds an advisory lock.
MINE = """SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
AND pid = pg_backend_pid() AND (classid::bigint << 32 | objid::bigint) = %s"""

#: The schemas that have a table of this name.
SCHEMAS = """SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relname = %s AND relkind IN ('r', 'p') ORDER BY nspname"""

#: The indexes of this session's schema that were not built to their end, and are not used.
INVALID_INDEXES = """SELECT class.relname FROM pg_catalog.pg_index AS index
JOIN pg_catalog.pg_class AS class ON class.oid = index.indexrelid
WHERE NOT index.indisvalid AND pg_catalog.pg_table_is_visible(index.indrelid)"""
