"""The Django app of the outbox: its one table lives in the application's databases."""

from __future__ import annotations

from django.apps import AppConfig


class OutboxConfig(AppConfig):
    """`INSTALLED_APPS = [..., "djjp", "djjp.outbox"]`."""

    name = "djjp.outbox"
    label = "djjp_outbox"
    verbose_name = "Outbox"
    default_auto_field = "django.db.models.BigAutoField"
