"""The Django app of the outbox: its one table lives in the application's databases."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy


class OutboxConfig(AppConfig):
    """`INSTALLED_APPS = [..., "djjp", "djjp.outbox"]`."""

    name = "djjp.outbox"
    label = "djjp_outbox"
    verbose_name = gettext_lazy("Outbox")
    default_auto_field = "django.db.models.BigAutoField"
