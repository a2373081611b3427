"""Settings of the project that the tests run: an application database and a queue of its own.

There are two queues, one on each database that djjp knows; `DJJP_TEST_ALIAS` says which one is in
force. What this module finds or makes is in the environment, so that the processes which the tests
start share it.

Processes that the tests start have no pages (`DJJP_TEST_PAGES=no`): each would load the admin and its forms.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from djjp.databases import queue_database
from tests.project import plain

os.environ.pop("DJJP_DATABASE_URL", None)  # of the user who runs the tests
HOME = Path(os.environ.get("DJJP_TEST_HOME") or tempfile.mkdtemp(prefix="djjp-test-"))
if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and HOME.name != worker:
    # One of several processes that share the tests out among them: each has its own databases.
    HOME = HOME / worker
    HOME.mkdir(exist_ok=True)
os.environ["DJJP_TEST_HOME"] = str(HOME)

SECRET_KEY = plain.SECRET_KEY
USE_TZ = plain.USE_TZ
DEFAULT_AUTO_FIELD = plain.DEFAULT_AUTO_FIELD

INSTALLED_APPS = ["djjp", "djjp.outbox", "tests.project.shop"]
if os.environ.get("DJJP_TEST_PAGES", "yes") == "yes":
    ROOT_URLCONF = "tests.project.urls"
    STATIC_URL = "static/"
    INSTALLED_APPS = [
        *plain.INSTALLED_APPS,
        "django.contrib.staticfiles",
        "djjp.outbox",
        "tests.project.shop",
    ]
    MIDDLEWARE = plain.MIDDLEWARE
    TEMPLATES = plain.TEMPLATES

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": HOME / "application.sqlite3",
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 30,
            # As docs/settings.md recommends: without a disk flush for each commit.
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
        },
    },
    "sqlite": queue_database(HOME / "queue.sqlite3"),
    # The address of a server that the session starts comes later: see tests/conftest.py.
    "postgresql": queue_database(os.environ.get("DJJP_TEST_SERVER_URL", "postgres://")),
}
DATABASE_ROUTERS = plain.DATABASE_ROUTERS
DJJP = {
    "db_name": os.environ.get("DJJP_TEST_ALIAS", "sqlite"),
    "shutdown_timeout": float(os.environ.get("DJJP_TEST_SHUTDOWN_TIMEOUT", "25")),
    **json.loads(os.environ.get("DJJP_TEST_SETTINGS", "{}")),
}

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "loggers": {
        "djjp": {"handlers": ["stderr"], "level": os.environ.get("DJJP_TEST_LOG", "WARNING")}
    },
}
if os.environ.get("DJJP_TEST_LOG") == "":  # as in a project that configures no logging for djjp
    del LOGGING["loggers"]["djjp"]
