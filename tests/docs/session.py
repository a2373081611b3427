"""The session in which a page's Python blocks run: a process of the project, one namespace for all.

It reads blocks as lines of JSON from stdin and answers each with a line of JSON: what went wrong, or
null. A block with `>>>` is held to the output that it shows; another one has to run, and may `await`
at its top level.
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
    """Run one block; returns what went wrong."""
    if ">>> " in source:
        return _examples(source, place, namespace)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            code = compile(source, place, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            if code.co_flags & inspect.CO_COROUTINE:
                asyncio.run(eval(code, namespace))  # noqa: S307  (that is what it is for)
            else:
                exec(code, namespace)  # noqa: S102
    except Exception:  # noqa: BLE001  (whatever it is, the test shows it)
        return traceback.format_exc() + printed.getvalue()
    return None


def _examples(source: str, place: str, namespace: dict[str, Any]) -> str | None:
    examples = doctest.DocTestParser().get_doctest(source, namespace, place, place, 0)
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    said: list[str] = []
    failed = runner.run(examples, out=said.append, clear_globs=False).failed
    namespace.update(examples.globs)
    return "".join(said) if failed else None


if __name__ == "__main__":
    import django

    django.setup()
    answers = sys.stdout
    shared: dict[str, Any] = {"__name__": "session"}
    for line in sys.stdin:
        answers.write(json.dumps(run(*json.loads(line), shared)) + "\n")
        answers.flush()
