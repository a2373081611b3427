"""The test project's settings, with limits short enough to be passed."""

from djjp.databases import queue_database
from tests.project.settings import *  # noqa: F403
from tests.project.settings import DATABASES, DJJP, HOME, INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.chaos"]
# Shorter than a storm of locks lasts.
DATABASES["sqlite"] = queue_database(HOME / "queue.sqlite3", busy_timeout=1.0)
DJJP = {
    **DJJP,
    "concurrency_limit": 8,
    "frozen_limit": 3.0,
    "max_rescues": 1000,  # here it is not the jobs that kill their consumers
}
