"""Steps of the interpreter, by which a test counts what a call costs, whatever the machine does besides."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from tests.support.processes import ROOT

_PACKAGE = str(ROOT / "djjp")


def steps(call: Callable[[], object]) -> int:
    """Call a function; return the number of steps that this thread has taken in the code of djjp."""
    count = 0

    def begin(frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(_PACKAGE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return step

    def step(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal count
        count += event == "opcode"
        return step

    before = sys.gettrace()
    sys.settrace(begin)
    try:
        call()
    finally:
        sys.settrace(before)
    return count
