"""System checks: problems that prevent a project from using the queue, each with its fix."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import apps
from django.core import checks
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections, router

from djjp import conf, engine, instruments, unapplied
from djjp.databases import migrate_command
from djjp.engine import Problem, entries
from djjp.jobs import registry
from djjp.outbox import requirements, table
from djjp.routers import APP_LABEL, OUTBOX_LABEL, QueueRouter


def register() -> None:
    """Register the checks. The check that connects runs only if `check --database` names the queue's alias."""
    checks.register(_configuration, APP_LABEL)
    checks.register(_promise, APP_LABEL, deploy=True)
    checks.register(_server, APP_LABEL, checks.Tags.database)
    checks.register(_application, APP_LABEL, checks.Tags.database)


def _configuration(**kwargs: Any) -> list[CheckMessage]:
    """Check without connecting. Later stages depend on earlier ones, so the first that fails reports alone."""
    if problems := _basics():
        return problems
    problems = list(_engine())
    if routing := list(_router()):
        return problems + routing
    return problems + list(_outbox())


def _basics() -> list[CheckMessage]:
    """Check the settings, the jobs' names and the alias, on which all other checks depend."""
    if problems := [*_settings(), *_names()] or [*_instruments()]:
        return problems
    return list(_missing_alias()) or list(_entry())


def _settings() -> Iterator[CheckMessage]:
    try:
        conf.current()
    except ImproperlyConfigured as error:
        yield _error("E001", str(error), "Correct the setting DJJP.")


def _instruments() -> Iterator[CheckMessage]:
    try:
        instruments.require()
    except ImproperlyConfigured as error:
        yield _error("E016", str(error), "Correct DJJP['instruments'], or the class that it names.")


def _names() -> Iterator[CheckMessage]:
    if registry.conflict is not None:
        yield _error(
            "E009", str(registry.conflict), "Give each job a name of its own: @job(name=...)."
        )


def _alias() -> str:
    return conf.current().db_name


def _missing_alias() -> Iterator[CheckMessage]:
    alias = _alias()
    if alias not in connections.settings:
        yield _error(
            "E002",
            f"DJJP['db_name'] is {alias!r}, which is no alias in DATABASES",
            f"Add it: DATABASES[{alias!r}] = queue_database(BASE_DIR / 'queue.sqlite3'), "
            "or set DJJP['db_name'] to an alias that DATABASES has.",
        )


def _entry() -> Iterator[CheckMessage]:
    if problem := entries.problem(_alias()):
        yield _error("E010", problem, f"Correct DATABASES[{_alias()!r}].")


def _engine() -> Iterator[CheckMessage]:
    alias = _alias()
    try:
        problems: Sequence[Problem] = list(engine.current().requirements.configuration_problems())
    except ImproperlyConfigured as error:
        # Django raises it for a missing driver, djjp for a database engine that it does not support.
        hint = "Install the driver: pip install 'djjp[postgres]'."
        if "djjp claims jobs on" in str(error):
            hint = "Use queue_database() with a path or a postgres:// URL."
        yield _error("E007", str(error), hint)
        return
    yield from (_error(*problem) for problem in problems)
    if alias != "default" and connections.settings[alias].get("ATOMIC_REQUESTS"):
        yield _error(
            "E008",
            f"DATABASES[{alias!r}]['ATOMIC_REQUESTS'] is on: every request holds a transaction on the queue, "
            "and its jobs cannot start before it ends",
            f"Remove ATOMIC_REQUESTS from DATABASES[{alias!r}].",
        )


def _router() -> Iterator[CheckMessage]:
    alias = _alias()
    if alias == "default" and not any(isinstance(r, QueueRouter) for r in router.routers):
        return
    for model in apps.get_app_config(APP_LABEL).get_models():
        fault = None
        routes = {router.db_for_read(model), router.db_for_write(model)}
        if wrong := sorted(routes - {alias}):
            fault = f"are routed to {', '.join(wrong)}"
        elif not router.allow_migrate_model(alias, model):
            fault = "get no tables there"
        if fault:
            has_router = any(isinstance(r, QueueRouter) for r in router.routers)
            cause = "another router decides first" if has_router else "QueueRouter is missing"
            yield _error(
                "E003",
                f"the queue's models belong on {alias!r}, but {fault}: {cause}",
                "Put 'djjp.routers.QueueRouter' first in DATABASE_ROUTERS.",
            )
            return


def _outbox() -> Iterator[CheckMessage]:
    if found := requirements.alias_problem():
        yield _error("E011", *found)
        return
    if problems := [*requirements.configuration_problems()]:
        yield from (_error(*problem) for problem in problems)
        return
    for alias in table.outboxes():
        for model in apps.get_app_config(OUTBOX_LABEL).get_models():
            if not router.allow_migrate_model(alias, model):
                yield _error(
                    "E012",
                    f"the outbox's table belongs on {alias!r}, but another router does not allow it there",
                    "Put 'djjp.routers.QueueRouter' first in DATABASE_ROUTERS.",
                )


def _promise(**kwargs: Any) -> list[CheckMessage]:
    """Warn before a deployment that enqueueing inside atomic() has a weaker guarantee without the outbox."""
    if _basics() or _alias() == "default" or table.installed():
        return []
    return [
        _warning(
            "W001",
            "a job that is enqueued inside atomic() is written to the queue once the transaction has "
            "committed: it is lost when the process dies in between, or when the queue does not answer",
            "Add 'djjp.outbox' to INSTALLED_APPS and run migrate, or silence this check.",
        )
    ]


def _server(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    if _basics() or _alias() not in (databases or ()) or list(_engine()):
        return []
    return list(_queue())


def _queue() -> Iterator[CheckMessage]:
    """Check the queue's database itself, by connecting to it."""
    alias = _alias()
    try:
        if problems := list(engine.current().requirements.server_problems()):
            yield from (_error(*problem) for problem in problems)
        else:
            yield from _migrations(alias, APP_LABEL)
    except Exception as error:  # noqa: BLE001  (a driver can raise anything for odd settings)
        yield _error(
            "E010",
            f"the queue's database {alias!r} does not answer: {error}",
            f"Start it, or correct DATABASES[{alias!r}].",
        )


def _migrations(alias: str, app_label: str) -> Iterator[CheckMessage]:
    """Warn of migrations that are not applied: an error would keep `migrate` itself from running.

    A project that has never been migrated is left alone.
    """
    if "migrate" in sys.argv[1:3]:
        return
    missing = unapplied.unapplied(alias, app_label)
    if not missing and not unapplied.has_tables(alias, app_label):
        yield _warning(
            "W002",
            f"the database {alias!r} has no table of {app_label}, although its migrations are recorded as applied",
            f"Run: {unapplied.create_command(alias, app_label)}",
        )
    if missing and any(
        unapplied.was_ever_migrated(each) for each in dict.fromkeys((alias, DEFAULT_DB_ALIAS))
    ):
        yield _warning(
            "W002",
            f"the database {alias!r} lacks migrations of {app_label}: {', '.join(missing)}",
            f"Run: {migrate_command(alias)}",
        )


def _application(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    if _basics() or requirements.alias_problem():
        return []
    found: list[CheckMessage] = []
    for alias in {*table.outboxes()} & {*(databases or ())}:
        try:
            entries.connect(alias)
            found += [_error(*problem) for problem in requirements.database_problems(alias)]
            found += _migrations(alias, OUTBOX_LABEL)
        except DatabaseError:
            pass  # consumers can start while an application's database is away
        except ImproperlyConfigured as error:
            found.append(_error("E011", str(error), f"Correct DATABASES[{alias!r}]."))
    return found


def _error(code: str, message: str, hint: str) -> CheckMessage:
    return Error(message, hint=_with_page(hint, code), id=f"djjp.{code}")


def _warning(code: str, message: str, hint: str) -> CheckMessage:
    return checks.Warning(message, hint=_with_page(hint, code), id=f"djjp.{code}")


def _with_page(hint: str, code: str) -> str:
    """Return a hint with the place in the documentation that explains the check."""
    return f"{hint.removesuffix('.')}; see docs/trouble.md#djjp{code.lower()}"
