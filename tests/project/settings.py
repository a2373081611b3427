"""Settings of the project that the tests run: an application database and a queue of its own.

There are two queues, one on each database that djjp knows; `DJJP_TEST_ALIAS` says which one is in
force. What this module finds or makes is in the environment, so that the processes which the tests
start share it.
"""

import os
import tempfile
from pathlib import Path

from djjp.databases import queue_database

os.environ.pop("DJJP_DATABASE_URL", None)  # of whoever runs the tests
HOME = Path(os.environ.get("DJJP_TEST_HOME") or tempfile.mkdtemp(prefix="djjp-test-"))
os.environ["DJJP_TEST_HOME"] = str(HOME)

SECRET_KEY = "only for tests"
USE_TZ = True
ROOT_URLCONF = "tests.project.urls"
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "djjp",
    "tests.project.shop",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": HOME / "application.sqlite3",
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 30,
            "init_command": "PRAGMA journal_mode=WAL",
        },
    },
    "sqlite": queue_database(HOME / "queue.sqlite3"),
    # The address of a server that the session starts comes later: see tests/conftest.py.
    "postgresql": queue_database(os.environ.get("DJJP_TEST_SERVER_URL", "postgres://")),
}
DATABASE_ROUTERS = ["djjp.routers.QueueRouter"]
DJJP = {
    "db_name": os.environ.get("DJJP_TEST_ALIAS", "sqlite"),
    "shutdown_timeout": float(os.environ.get("DJJP_TEST_SHUTDOWN_TIMEOUT", "25")),
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "loggers": {
        "djjp": {"handlers": ["stderr"], "level": os.environ.get("DJJP_TEST_LOG", "WARNING")}
    },
}
