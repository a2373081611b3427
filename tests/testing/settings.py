"""Settings of a project whose tests use djjp's tools; the environment says on which databases it stands.

Its files can't be opened: what Django's test runner keeps in memory is all that there is.
"""

import os

import django

from djjp.databases import queue_database
from tests.project import plain
from tests.project.plain import *  # noqa: F403

INSTALLED_APPS = [*plain.INSTALLED_APPS, "tests.testing.bookshop"]
if django.VERSION < (6, 0):
    INSTALLED_APPS = [*INSTALLED_APPS, "django_tasks"]
if "BOOKSHOP_OUTBOX" in os.environ:
    INSTALLED_APPS = [*INSTALLED_APPS, "djjp.outbox"]
TASKS = {"default": {"BACKEND": "djjp.backend.DjjpBackend"}}
ROOT_URLCONF = "tests.project.urls"
DJJP = {"db_name": os.environ.get("BOOKSHOP_ALIAS", "queue")}

DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "/nowhere/application.sqlite3"},
    "queue": queue_database("/nowhere/queue.sqlite3"),
}
if url := os.environ.get("BOOKSHOP_QUEUE_URL"):
    DATABASES["queue"] = queue_database(url)
if url := os.environ.get("BOOKSHOP_APPLICATION_URL"):
    DATABASES["default"] = queue_database(url)
