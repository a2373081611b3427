"""The Django app: finds the `jobs.py` of every installed app and registers the checks."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class DjjpConfig(AppConfig):
    """`INSTALLED_APPS = [..., "djjp"]`."""

    name = "djjp"
    verbose_name = "Jobs"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from djjp import checks, registry
        from djjp.exceptions import JobNameTaken

        checks.register()
        try:
            autodiscover_modules("jobs")
        except JobNameTaken as conflict:
            # Held for the system check, which says it with its fix; the decorator itself raised at once,
            # so the module that repeats the name stays unimported.
            registry.conflict = conflict
