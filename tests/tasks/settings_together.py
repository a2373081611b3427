"""The test project with the queue in the application's database, which is SQLite or a server."""

import os

from djjp.databases import queue_database
from tests.tasks.settings import *  # noqa: F403
from tests.tasks.settings import DATABASES

if url := os.environ.get("DJJP_TEST_TOGETHER_URL"):
    DATABASES["default"] = queue_database(url)
DATABASES = {"default": DATABASES["default"]}
DJJP = {"db_name": os.environ.get("DJJP_TEST_ALIAS", "default")}
