"""The Django app: import the `jobs.py` and `tasks.py` of every installed app, and register the checks."""

from __future__ import annotations

from django.apps import AppConfig
from django.conf import settings
from django.utils.module_loading import autodiscover_modules, import_string
from django.utils.translation import gettext_lazy


class DjjpConfig(AppConfig):
    """`INSTALLED_APPS = [..., "djjp"]`."""

    name = "djjp"
    verbose_name = gettext_lazy("Jobs")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from djjp import checks, logs
        from djjp.exceptions import JobNameTaken
        from djjp.jobs import registry

        logs.protect()
        checks.register()
        try:
            autodiscover_modules("jobs")
            if _has_tasks():
                from djjp.backend import discover

                discover()
        except JobNameTaken as conflict:
            # Kept for the system check, which reports it with its fix; the decorator raised at once,
            # so the module that repeats the name is not imported.
            registry.conflict = conflict


def _has_tasks() -> bool:
    """Return whether a backend in `TASKS` is djjp's, or derived from it.

    A project without one must not import `djjp.backend`, which on Django 5.2 needs a package that it may
    not have; therefore the class is recognized by an attribute.
    """
    for params in getattr(settings, "TASKS", {}).values():
        path = params.get("BACKEND", "")
        if path.startswith(("django.tasks.", "django_tasks.")):
            continue
        try:
            backend = import_string(path)
        except ImportError:
            if path.startswith("djjp."):
                raise
            continue  # Django's own check reports it
        if getattr(backend, "discovers_tasks", False):
            return True
    return False
