"""Settings of the benchmarks' project: an application database, and a queue on each database.

What differs from run to run is in the environment, which the consumers inherit.
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

DATABASE_ROUTERS = ["djjp.routers.QueueRouter"]
DJJP = {"db_name": os.environ.get("DJJP_BENCH_ALIAS", "sqlite")}

# A consumer logs when it begins and when it ends; `processes.py` reads the times.
if log := os.environ.get("DJJP_BENCH_LOG"):
    LOGGING = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"timed": {"format": "%(created).6f %(levelname)s %(message)s"}},
        "handlers": {
            "file": {"class": "logging.FileHandler", "filename": log, "formatter": "timed"}
        },
        "loggers": {"djjp": {"handlers": ["file"], "level": "INFO", "propagate": False}},
    }
