"""Requirements: problems that prevent a database from holding the queue, and its storage parameters."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from django.apps import apps
from django.db import connections
from django.db.models import Model

from djjp.engine.database import Database
from djjp.engine.records import Problem
from djjp.models import Job


class Requirements:
    """Serve the system checks and the migration."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def configuration_problems(self) -> Iterable[Problem]:
        """Yield the problems of the alias' settings, found without connecting."""
        ours = self._db.connection.settings_dict
        for alias, theirs in connections.settings.items():
            same_engine = theirs.get("ENGINE") == ours["ENGINE"]
            if (
                alias != self._db.alias
                and same_engine
                and self._db.database_identity(theirs) == self._db.database_identity(ours)
            ):
                yield Problem(
                    "E004",
                    f"the queue's alias {self._db.alias!r} and the alias {alias!r} are one database "
                    f"({ours['NAME']}), so the queue is not isolated and its tables may never be created",
                    "Give the queue a file or a database of its own, "
                    "or set DJJP['db_name'] to the other alias.",
                )
        if not ours["AUTOCOMMIT"]:
            yield Problem(
                "E022",
                f"DATABASES[{self._db.alias!r}]['AUTOCOMMIT'] is off, so that nothing in the queue is committed",
                f"Remove AUTOCOMMIT from DATABASES[{self._db.alias!r}].",
            )
        yield from self._db.configuration_problems()

    def server_problems(self) -> Iterable[Problem]:
        """Return the problems of the database server."""
        return self._db.server_problems()

    def schemas_with(self, table: str) -> Sequence[str]:
        """Return the names of the schemas that have a table of this name."""
        return self._db.schemas_with(table)

    def storage_parameters(self) -> Sequence[tuple[str, str]]:
        """Return the statements that set the tables' storage parameters, each with the one that resets it."""
        return self._db.storage_parameters()

    def index_problems(self) -> list[tuple[str, str]]:
        """Return what is wrong with the indexes of the tables, each with the statement that puts it right."""
        invalid = self._db.invalid_indexes()
        models = apps.get_app_config(Job._meta.app_label).get_models()
        return [found for model in models for found in self._drift(model, invalid)]

    def _drift(self, model: type[Model], invalid: Collection[str]) -> Iterable[tuple[str, str]]:
        connection = self._db.connection
        table = model._meta.db_table
        with connection.cursor() as cursor:
            existing = connection.introspection.get_constraints(cursor, table)
        editor = connection.SchemaEditorClass(connection, collect_sql=True)
        for each in (*model._meta.indexes, *model._meta.constraints):
            create = f"{each.create_sql(model, editor)};"
            columns = _columns(model, getattr(each, "fields", ()))
            there = existing.get(each.name)
            if there is None:
                yield f"the index {each.name} of {table} is missing", create
            elif each.name in invalid:
                yield (
                    f"the index {each.name} of {table} is invalid, as after CREATE INDEX CONCURRENTLY that failed",
                    f"REINDEX INDEX CONCURRENTLY {each.name};",
                )
            elif columns and list(there["columns"]) != columns:
                others = ", ".join(map(str, there["columns"]))
                text = f"the index {each.name} of {table} has the columns {others}, not {', '.join(columns)}"
                yield text, f"DROP INDEX {each.name}; {create}"


def _columns(model: type[Model], fields: Iterable[str]) -> list[str]:
    columns = {field.name: field.column for field in model._meta.concrete_fields}
    return [str(columns[field.removeprefix("-")]) for field in fields]
