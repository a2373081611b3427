"""System checks: problems that prevent a project from using the queue, each with its fix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import apps
from django.core import checks
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections, router

from djjp import conf, engine
from djjp.engine import Problem
from djjp.jobs import registry
from djjp.outbox import table
from djjp.routers import APP_LABEL, OUTBOX_LABEL, QueueRouter


def register() -> None:
    """Register the checks; those that connect run where `check --database` names the queue's alias."""
    checks.register(_configuration, APP_LABEL)
    checks.register(_promise, APP_LABEL, deploy=True)
    checks.register(_server, APP_LABEL, checks.Tags.database)


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
    if problems := [*_settings(), *_names()]:
        return problems
    return list(_missing_alias())


def _settings() -> Iterator[CheckMessage]:
    try:
        conf.current()
    except ImproperlyConfigured as error:
        yield _error("E001", str(error), "Correct the setting DJJP.")


def _names() -> Iterator[CheckMessage]:
    if registry.conflict is not None:
        yield _error("E009", str(registry.conflict), "Names of jobs are unique in a project.")


def _alias() -> str:
    return conf.current().db_name


def _missing_alias() -> Iterator[CheckMessage]:
    alias = _alias()
    if alias not in connections.settings:
        yield _error(
            "E002",
            f"DJJP['db_name'] is {alias!r}, which is no alias in DATABASES",
            f"Add it: DATABASES[{alias!r}] = queue_database(BASE_DIR / 'queue.sqlite3'), "
            "or set DJJP['db_name'] to an alias that is there.",
        )


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
            f"DATABASES[{alias!r}]['ATOMIC_REQUESTS'] is on, so that every request holds a transaction "
            "of the queue and what it enqueues waits for its end",
            f"Remove ATOMIC_REQUESTS from DATABASES[{alias!r}].",
        )


def _router() -> Iterator[CheckMessage]:
    alias = _alias()
    if alias == "default" and not any(isinstance(r, QueueRouter) for r in router.routers):
        return
    for model in apps.get_app_config(APP_LABEL).get_models():
        routes = {router.db_for_read(model), router.db_for_write(model)}
        wrong = sorted(routes - {alias})
        if not wrong and not router.allow_migrate_model(alias, model):
            wrong = ["nowhere, as far as migrations go"]
        if wrong:
            known = any(isinstance(r, QueueRouter) for r in router.routers)
            yield _error(
                "E003",
                f"the queue's models belong on {alias!r}, but are routed to {', '.join(wrong)}"
                + (" by a router that answers first" if known else ": QueueRouter is missing"),
                "Put 'djjp.routers.QueueRouter' first in DATABASE_ROUTERS.",
            )
            return


def _outbox() -> Iterator[CheckMessage]:
    settings = conf.current()
    for alias in settings.outbox:
        problem = None
        if alias not in connections.settings:
            problem = "is no alias in DATABASES"
        elif alias == settings.db_name != "default":
            problem = "is the queue's own database: it needs no outbox"
        if problem:
            yield _error(
                "E011",
                f"DJJP['outbox'] names {alias!r}, which {problem}",
                "Name databases of the application there, by their aliases.",
            )
            return
    for alias in table.outboxes():
        for model in apps.get_app_config(OUTBOX_LABEL).get_models():
            if not router.allow_migrate_model(alias, model):
                yield _error(
                    "E012",
                    f"the outbox of {alias!r} belongs on that database, but a router keeps its table out",
                    "Put 'djjp.routers.QueueRouter' first in DATABASE_ROUTERS.",
                )


def _promise(**kwargs: Any) -> list[CheckMessage]:
    """Warn of a weaker promise, which a project should know before it is deployed."""
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
    if _basics() or _alias() not in (databases or ()):
        return []
    try:
        return [_error(*problem) for problem in engine.current().requirements.server_problems()]
    except ImproperlyConfigured:
        return []  # reported by `_engine`
    except DatabaseError as error:
        return [
            _error(
                "E010",
                f"the queue's database {_alias()!r} does not answer: {error}",
                f"Start it, or correct DATABASES[{_alias()!r}].",
            )
        ]


def _error(code: str, message: str, hint: str) -> CheckMessage:
    return Error(message, hint=hint, id=f"djjp.{code}")


def _warning(code: str, message: str, hint: str) -> CheckMessage:
    return checks.Warning(message, hint=hint, id=f"djjp.{code}")
