"""Requirements: problems of the application's databases that keep rows of an outbox from the consumers' sweep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from djjp import conf, engine, unapplied
from djjp.engine import Problem, entries
from djjp.outbox import table


def alias_problem() -> tuple[str, str] | None:
    """Return what is wrong with an alias in `DJJP["outbox"]`, and what puts it right; None if nothing is."""
    settings_now = conf.current()
    for alias in settings_now.outbox:
        fault = None
        if alias not in connections.settings:
            fault = "is no alias in DATABASES"
        elif alias == settings_now.db_name != "default":
            fault = "is the queue's own database: it needs no outbox"
        if fault:
            return (
                f"DJJP['outbox'] names {alias!r}, which {fault}",
                "Name only aliases of the application's databases there.",
            )
    wrong = ((alias, entries.problem(alias)) for alias in table.outboxes())
    return next(
        (
            (text, f"Correct DATABASES[{alias!r}], which DJJP['outbox'] names.")
            for alias, text in wrong
            if text
        ),
        None,
    )


def require_aliases() -> None:
    """Check that each alias in `DJJP["outbox"]` can have an outbox.

    Raises:
        ImproperlyConfigured: one cannot.
    """
    if found := alias_problem():
        raise ImproperlyConfigured(found[0])


def configuration_problems() -> Iterator[Problem]:
    """Yield the problems of the settings of django-tenants, found without connecting.

    It gives each tenant a schema, and a transaction the schema of its tenant. A consumer sees the public one.
    """
    labels = [table.LABEL] if table.outboxes() else []
    if conf.current().db_name == getattr(settings, "TENANT_DB_ALIAS", "default"):
        labels.append("djjp")
    for label in labels:
        app = apps.get_app_config(label)
        names = {app.name, f"{type(app).__module__}.{type(app).__qualname__}"}
        if names & {*_tenants_apps()}:
            yield Problem(
                "E020",
                f"{app.name!r} is among the apps of tenants, so its table is in the schema of each: no consumer "
                "would see the rows there",
                f"Move {app.name!r} from TENANT_APPS to SHARED_APPS.",
            )


def _tenants_apps() -> Iterator[str]:
    yield from getattr(settings, "TENANT_APPS", ())
    types: Mapping[str, Mapping[str, Iterable[str]]] = getattr(settings, "TENANT_TYPES", {})
    public = getattr(settings, "PUBLIC_SCHEMA_NAME", "public")
    for name, options in types.items():
        if name != public:
            yield from options.get("APPS", ())


def database_problems(alias: str) -> Iterator[Problem]:
    """Yield the problems of an application's database itself."""
    try:
        schemas = engine.for_alias(alias).requirements.schemas_with(table.NAME)
    except ImproperlyConfigured:
        return  # a database that cannot hold the queue, and has no schemas of this kind
    if len(schemas) > 1:
        yield Problem(
            "E021",
            f"the outbox of {alias!r} has a table in each of the schemas {', '.join(schemas)}: a transaction "
            "writes into the first in its search_path, and consumers sweep the first in theirs only",
            f"Keep the table {table.NAME} in one schema that every search_path has, and drop the others.",
        )


def require_outbox(alias: str) -> None:
    """Check that an application's database has the table of its outbox.

    Raises:
        ImproperlyConfigured: migrations are not applied there, or its entry in `DATABASES` has a wrong value.
        django.db.Error: it does not answer.
    """
    with table.named(alias):
        problem = unapplied.problem(alias, table.LABEL)
    if problem:
        raise ImproperlyConfigured(problem)
