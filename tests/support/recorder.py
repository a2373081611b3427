"""The recorder: what jobs in this process record for their test, and the gate where they wait for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

#: What jobs have recorded: marks, threads, connections.
SEEN: list[Any] = []
#: Where jobs wait in C code, out of reach of any exception, until their test opens it.
GATE = threading.Event()


@pytest.fixture
def recorder() -> Iterator[list[Any]]:
    """Close the gate before a test; open it and forget the records after it."""
    GATE.clear()
    yield SEEN
    GATE.set()
    SEEN.clear()
