"""Unapplied migrations: those of this code that a database does not have yet."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from django.apps import apps
from django.db import Error as DatabaseError
from django.db import connections
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from djjp.databases import migrate_command


def problem(alias: str, app_label: str) -> str | None:
    """Return which of an app's migrations a database lacks, with the command that applies them; None for none."""
    if missing := unapplied(alias, app_label):
        return (
            f"the database {alias!r} lacks migrations of {app_label} ({', '.join(missing)}); "
            f"apply them: {migrate_command(alias)}"
        )
    if not has_tables(alias, app_label):
        return (
            f"the database {alias!r} has no table of {app_label}, although its migrations are recorded as applied"
            f"; create the tables: {create_command(alias, app_label)}"
        )
    return None


def has_tables(alias: str, app_label: str) -> bool:
    """Return whether a database has any table of an app; always True where its migrations are switched off.

    Django records migrations as applied also where a router keeps their tables away, as before an alias is named
    in the settings.
    """
    tables = {model._meta.db_table for model in apps.get_app_config(app_label).get_models()}
    there = connections[alias].introspection.table_names()
    return not _known(app_label) or not tables.isdisjoint(there)


def create_command(alias: str, app_label: str) -> str:
    """Return the commands that create tables whose migrations are only recorded as applied."""
    forget = f"python manage.py migrate {app_label} zero --fake --database={alias}"
    return f"{forget} && {migrate_command(alias)}"


def was_ever_migrated(alias: str) -> bool:
    """Return whether `migrate` has run on a database, if it answers."""
    try:
        return MigrationRecorder(connections[alias]).has_table()
    except DatabaseError:
        return False


def unapplied(alias: str, app_label: str) -> list[str]:
    """Return the names of an app's migrations that are not recorded as applied on a database.

    It reads one table, and loads the migrations of this app only. The result is empty where the project
    switches the app's migrations off, and where the database has all of them and newer ones.
    """
    known = _known(app_label)
    if not known:
        return []
    recorder = MigrationRecorder(connections[alias])
    if not recorder.has_table():
        return sorted(known)
    rows = recorder.migration_qs.filter(app=app_label)
    applied = set(rows.values_list("name", flat=True))
    # A squashed migration stands for those that it replaces, and they for it.
    squashed = {name for name, replaced in known.items() if replaced and replaced <= applied}
    covered = {old for name, replaced in known.items() if name in applied for old in replaced}
    return sorted(known.keys() - applied - squashed - covered)


def _known(app_label: str) -> dict[str, set[str]]:
    """Return the names of an app's migrations, each with the names of those that it replaces."""
    package, _ = MigrationLoader.migrations_module(app_label)
    if package is None:
        return {}
    try:
        modules = [
            import_module(f"{package}.{each.name}")
            for each in iter_modules(import_module(package).__path__)
            if not each.ispkg and each.name[0] not in "_~"
        ]
    except (
        ModuleNotFoundError
    ):  # a package that is not there is another way to switch migrations off
        return {}
    return {
        module.__name__.rpartition(".")[2]: {
            name for app, name in module.Migration.replaces if app == app_label
        }
        for module in modules
        if hasattr(module, "Migration")
    }
