"""Settings for the queues that run in Django; `DJJP_PEERS_PEER` names the queue, `DJJP_PEERS_PLACE` its database.

On SQLite all of them get the settings of djjp's own file (WAL, `synchronous=NORMAL`,
`BEGIN IMMEDIATE`, a busy timeout), because Django's defaults would be slower.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import dj_database_url
import django

from djjp.databases import queue_database

PEER = os.environ["DJJP_PEERS_PEER"]
_place = os.environ["DJJP_PEERS_PLACE"]
_slots = int(os.environ.get("DJJP_PEERS_SLOTS", "10"))

SECRET_KEY = "only for benchmarks"  # noqa: S105  (it guards nothing)
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django.contrib.contenttypes", "benchmarks.peers"]
DATABASES: dict[str, Any] = {}

if PEER == "djjp":
    INSTALLED_APPS += ["djjp"]
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": Path(os.environ["DJJP_PEERS_FOLDER"]) / "application.sqlite3",
        },
        "queue": queue_database(_place),
    }
    DATABASE_ROUTERS = ["djjp.routers.QueueRouter"]
elif "://" in _place:
    DATABASES = {"default": dict(dj_database_url.parse(_place, conn_max_age=None))}
else:
    DATABASES = {"default": queue_database(_place)}

if PEER == "django_tasks_db":
    # On Django 5.2 the task framework is the backport, an app.
    INSTALLED_APPS += ["django_tasks_db", *(["django_tasks"] if django.VERSION < (6,) else [])]
    TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}

if PEER == "steady_queue":
    from steady_queue.configuration import Configuration

    INSTALLED_APPS += ["steady_queue"]
    TASKS = {"default": {"BACKEND": "steady_queue.backend.SteadyQueueBackend"}}
    STEADY_QUEUE = Configuration.Options(
        workers=[Configuration.Worker(threads=_slots, polling_interval=timedelta(milliseconds=10))],
        dispatchers=[Configuration.Dispatcher(concurrency_maintenance=False)],
        skip_recurring=True,
    )
