"""Settings of the benchmarks' project: an application database, and a queue on each database.

Values that differ between runs are in the environment, which the consumers inherit.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from djjp.databases import queue_database

HOME = Path(os.environ["DJJP_BENCH_HOME"])

SECRET_KEY = "only for benchmarks"  # noqa: S105  (it guards nothing)
USE_TZ = True
INSTALLED_APPS = ["djjp", "benchmarks"]

DATABASES: dict[str, dict[str, Any]] = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": HOME / "application.sqlite3"},
    "sqlite": queue_database(HOME / "queue.sqlite3"),
}
if url := os.environ.get("DJJP_BENCH_POSTGRES_URL"):
    DATABASES["postgresql"] = queue_database(url)

# Only `isolation.py` measures the application's own database. It has the queue's settings, which are the
# better ones, so that the runs differ in the place of the queue only. "default" is the database of the writes.
if "DJJP_BENCH_APPLICATION" in os.environ:
    DATABASES["default"] = queue_database(HOME / "application.sqlite3")
    if url := os.environ.get("DJJP_BENCH_POSTGRES_APPLICATION_URL"):
        DATABASES["application"] = queue_database(url)
    DATABASES["default"] = DATABASES[os.environ.get("DJJP_BENCH_WRITES", "default")]

DATABASE_ROUTERS = ["djjp.routers.QueueRouter"]
DJJP = {
    "db_name": os.environ.get("DJJP_BENCH_ALIAS", "sqlite"),
    "listen": os.environ.get("DJJP_BENCH_LISTEN") != "no",
}

# Only `scale.py` measures the admin; a consumer starts faster without it.
if "DJJP_BENCH_ADMIN" in os.environ:
    INSTALLED_APPS += [
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.messages",
        "django.contrib.sessions",
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
    ROOT_URLCONF = "benchmarks.urls"
    ALLOWED_HOSTS = ["testserver"]

# Only `http.py` has a web server.
if "DJJP_BENCH_HTTP" in os.environ:
    ROOT_URLCONF = "benchmarks.web"
    ALLOWED_HOSTS = ["127.0.0.1"]

# A consumer logs when it begins and when it ends; `processes.py` reads the times.
if log := os.environ.get("DJJP_BENCH_LOG"):
    LOGGING = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"timed": {"format": "%(created).6f %(levelname)s %(message)s"}},
        "handlers": {
            "file": {"class": "logging.FileHandler", "filename": log, "formatter": "timed"}
        },
        "loggers": {
            "djjp": {"handlers": ["file"], "level": "INFO", "propagate": False},
            "djjp.consumer.jobs": {"level": "WARNING"},
        },
    }
