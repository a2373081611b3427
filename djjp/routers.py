"""`QueueRouter`: all queue models are on the database `DJJP["db_name"]`, and no other models are."""

from __future__ import annotations

from typing import Any

from django.db.models import Model

from djjp import conf

__all__ = ["QueueRouter"]

APP_LABEL = "djjp"
OUTBOX_LABEL = "djjp_outbox"


class QueueRouter:
    """Routes the models of djjp to the queue's alias. Name it first in `DATABASE_ROUTERS`.

    The outbox has its table on the aliases of `DJJP["outbox"]` only, which are the application's databases.

    With `DJJP["db_name"] = "default"` the queue shares the application's database and the router
    only keeps the queue's models there.
    """

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        return self._alias(model, hints)

    def db_for_write(self, model: type[Model], **hints: Any) -> str | None:
        return self._alias(model, hints)

    def _alias(self, model: type[Model], hints: dict[str, Any]) -> str | None:
        if model._meta.app_label == OUTBOX_LABEL:
            return _outbox_alias(hints)
        if model._meta.app_label != APP_LABEL:
            return None
        instance = hints.get("instance")
        if instance is not None and instance._meta.app_label == APP_LABEL and instance._state.db:
            # A job that was read with using() stays on the database that it was read from.
            return str(instance._state.db)
        return conf.db_name()

    def allow_relation(self, obj1: Model, obj2: Model, **hints: Any) -> bool | None:
        ours = [obj._meta.app_label == APP_LABEL for obj in (obj1, obj2)]
        if all(ours):
            return obj1._state.db == obj2._state.db
        if any(ours):
            return False
        return None

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        alias = conf.db_name()
        if app_label == APP_LABEL:
            return db == alias
        if app_label == OUTBOX_LABEL and db not in conf.outbox():
            return False
        if db == alias and alias != "default":
            return False
        return None


def _outbox_alias(hints: dict[str, Any]) -> str | None:
    """Return the database that a row of the outbox was read from, else the first one with an outbox."""
    instance = hints.get("instance")
    if instance is not None and instance._meta.app_label == OUTBOX_LABEL and instance._state.db:
        return str(instance._state.db)
    aliases = conf.outbox()
    return aliases[0] if aliases else None
