"""Settings of the project that the tests run: an application database and a queue of its own.

The test session hands its databases over in the environment, so that the consumer processes which the
tests start have the same ones.
"""

import os
import tempfile
from pathlib import Path

from djjp.databases import queue_database

HOME = Path(os.environ.get("DJJP_TEST_HOME") or tempfile.gettempdir())
QUEUE_URL = os.environ.get("DJJP_TEST_QUEUE_URL", str(HOME / "queue.sqlite3"))

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
    "queue": queue_database(QUEUE_URL),
}
DATABASE_ROUTERS = ["djjp.routers.QueueRouter"]
DJJP = {"db_name": "queue"}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "loggers": {"djjp": {"handlers": ["stderr"], "level": os.environ.get("DJJP_TEST_LOG", "WARNING")}},
}
