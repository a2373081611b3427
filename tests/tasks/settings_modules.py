"""The same, with a module in which tasks are defined outside of any app."""

from tests.tasks.settings import *  # noqa: F403
from tests.tasks.settings import TASKS

TASKS["default"]["OPTIONS"] = {"modules": ["tests.tasks.trap"]}
