"""Unapplied migrations: those of this code that a database does not have yet."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from django.db import Error as DatabaseError
from django.db import connections
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from djjp.databases import migrate_command


def problem(alias: str, app_label: str) -> str | None:
    """Return which of an app's migrations a database lacks, with the command that applies them; None for none."""
    missing = unapplied(alias, app_label)
    if not missing:
        return None
    return (
        f"the database {alias!r} lacks migrations of {app_label} ({', '.join(missing)}); "
        f"apply them: {migrate_command(alias)}"
    )


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
