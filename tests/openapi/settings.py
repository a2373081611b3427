"""A project that has the HTTP interface and nothing else, on SQLite."""

import os
from pathlib import Path

from djjp.databases import queue_database
from tests.project import plain

HOME = Path(os.environ["DJJP_TEST_HOME"])
SECRET_KEY = plain.SECRET_KEY
USE_TZ = plain.USE_TZ
DEFAULT_AUTO_FIELD = plain.DEFAULT_AUTO_FIELD
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = ["djjp", "tests.openapi"]
ROOT_URLCONF = "tests.api.urls"
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": HOME / "application.sqlite3"},
    "queue": queue_database(HOME / "queue.sqlite3"),
}
DATABASE_ROUTERS = plain.DATABASE_ROUTERS
DJJP = {"db_name": "queue"}
LOGGING = {
    "version": 1,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "loggers": {
        "djjp": {"level": "CRITICAL", "propagate": False},  # jobs fail here as they are meant to
        "djjp.api": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
    },
}
