"""The settings of the test project behind a real server."""

import os

from tests.project.settings import *  # noqa: F403

ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "tests.api.urls"
MIDDLEWARE = []
if "DJJP_TEST_KILL" in os.environ:
    MIDDLEWARE.append("tests.api.server.killing")
if os.environ.get("DJJP_TEST_MIDDLEWARE") == "sync":
    MIDDLEWARE.append("tests.api.server.sync_only")
