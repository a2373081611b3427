"""The databases that the tests run on."""

from __future__ import annotations

import os

#: The aliases in `DJJP_TEST_QUEUES`, all by default.
QUEUES = os.environ.get("DJJP_TEST_QUEUES", "sqlite,postgresql").split(",")
