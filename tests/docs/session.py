"""The session in which the Python blocks of a page run: one process of the project, and one namespace.

It reads blocks as lines of JSON from stdin, and answers each with a line of JSON: the error, or null. A block
with `>>>` must produce the output that it shows; any other block must run, and can `await` at its top level.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import doctest
import inspect
import io
import json
import sys
import traceback
from typing import Any

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def run(source: str, place: str, namespace: dict[str, Any]) -> str | None:
    """Run one block; return the error, if there is one."""
    if ">>> " in source:
        return _examples(source, place, namespace)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            code = compile(source, place, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            if code.co_flags & inspect.CO_COROUTINE:
                asyncio.run(eval(code, namespace))  # noqa: S307  (a block of our own pages)
            else:
                exec(code, namespace)  # noqa: S102
    except Exception:  # noqa: BLE001  (the test shows any error)
        return traceback.format_exc() + printed.getvalue()
    return None


def _examples(source: str, place: str, namespace: dict[str, Any]) -> str | None:
    examples = doctest.DocTestParser().get_doctest(source, namespace, place, place, 0)
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    output: list[str] = []
    failed = runner.run(examples, out=output.append, clear_globs=False).failed
    namespace.update(examples.globs)
    return "".join(output) if failed else None


if __name__ == "__main__":
    import django

    django.setup()
    answers = sys.stdout
    shared: dict[str, Any] = {"__name__": "session"}
    for line in sys.stdin:
        source, place = json.loads(line)
        answers.write(json.dumps(run(source, place, shared)) + "\n")
        answers.flush()
