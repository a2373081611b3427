"""The command in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import click
import pytest
from django.core.management import CommandError, call_command

from djjp.engine import Engine
from djjp.monitoring import shapes
from tests.support.json_schema import problems


class Ran(NamedTuple):
    """One run of a command."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def document(self, shape: str) -> Any:
        """Return its only document, which must have this shape."""
        document = json.loads(self.out)
        assert self.out.count("\n") == 1
        schema = shapes.schema()
        assert problems(document, schema["$defs"][shape], schema) == []
        return document


Djjp = Callable[..., Ran]


@pytest.fixture
def djjp(engine: Engine, capsys: pytest.CaptureFixture[str]) -> Djjp:
    """Run `manage.py djjp …` in this process."""
    return lambda *words: run(capsys, *words)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> Ran:
    code = 0
    try:
        call_command("djjp", *words)
    except CommandError as error:
        code = error.returncode
        print(f"CommandError: {error}", file=sys.stderr)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    out, err = capsys.readouterr()
    return Ran(code, out, err)
