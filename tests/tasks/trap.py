"""A module of no installed app, with a task that a row could name."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.tasks_env import tasks

if trace := os.environ.get("DJJP_TEST_TRACE"):
    Path(trace).write_text(__name__, encoding="utf-8")


@tasks.task
def sprung() -> str:
    return "sprung"
