"""Settings of the processes that run the tests' tasks: the test project, and an app with tasks."""

import os
from typing import Any

import django

from djjp.tasks.compat import PACKAGE
from tests.project.settings import *  # noqa: F403
from tests.project.settings import INSTALLED_APPS, LOGGING

if django.VERSION < (6, 0):
    INSTALLED_APPS = [*INSTALLED_APPS, "django_tasks"]
INSTALLED_APPS = [*INSTALLED_APPS, "tests.tasks.errands"]
TASKS: dict[str, dict[str, Any]] = {
    "default": {"BACKEND": "djjp.backend.DjjpBackend", "QUEUES": []}
}

# What the framework says of the tasks that run.
LOGGING["loggers"][PACKAGE] = {
    "handlers": ["stderr"],
    "level": os.environ.get("DJJP_TEST_TASKS_LOG", "CRITICAL"),
}
