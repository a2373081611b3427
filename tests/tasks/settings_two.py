"""The same, with a second backend, to which one task belongs by its definition."""

import os

from djjp.tasks.compat import PACKAGE
from tests.tasks.settings import *  # noqa: F403
from tests.tasks.settings import TASKS

TASKS["dummy"] = {"BACKEND": f"{PACKAGE}.backends.dummy.DummyBackend"}
os.environ["DJJP_TEST_OTHER_BACKEND"] = "dummy"
