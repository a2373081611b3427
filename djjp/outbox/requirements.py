"""Requirements: problems of the application's databases that keep rows of an outbox from the consumers' sweep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from djjp import conf, engine, unapplied
from djjp.engine import Problem
from djjp.outbox import table


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
        ImproperlyConfigured: migrations are not applied there.
        django.db.Error: it does not answer.
    """
    with table.named(alias):
        problem = unapplied.problem(alias, table.LABEL)
    if problem:
        raise ImproperlyConfigured(problem)
