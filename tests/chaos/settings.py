"""The test project's settings, with limits that are short enough to be exceeded."""

from djjp.databases import queue_database
from tests.project.settings import *  # noqa: F403
from tests.project.settings import DATABASES, DJJP, HOME, INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.chaos"]
# Shorter than the locks of `outages.py`.
DATABASES["sqlite"] = queue_database(HOME / "queue.sqlite3", busy_timeout=1.0)
DJJP = {
    **DJJP,
    "concurrency_limit": 8,
    "frozen_limit": 3.0,
    "max_payload": 100_000,
    # So many that the suite's own kills fail no job, and a job that always meets a fatal one does fail.
    "max_rescues": 12,
}
