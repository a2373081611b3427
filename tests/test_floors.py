"""The house: imports point downward only, and a module does one job."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import djjp

PACKAGE = Path(djjp.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py"
}

# Lowest first. A room is a module or a whole package beneath `djjp`.
FLOORS = {
    "ground": [
        "conf",
        "databases",
        "routers",
        "codec",
        "exceptions",
        "framework",
        "ids",
        "jsontext",
        "signals",
    ],
    "storage": ["models", "claims", "migrations"],
    "domain": [
        "bulk",
        "calls",
        "current",
        "handles",
        "jobs",
        "limits",
        "pausing",
        "options",
        "outbox",
        "pipeline_handles",
        "pipelines",
        "registry",
        "overview",
        "results",
        "retries",
        "schedules",
        "slots",
        "tasks",
        "terms",
    ],
    "runtime": ["consumer"],
    "face": ["admin", "api", "backend", "checks", "management", "testing"],
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
HEIGHT = {floor: height for height, floor in enumerate(FLOORS)}

# What wires the house up, for Django and for pytest, stands outside, and reaches in at these doors.
WIRING = {"apps": {"backend", "checks", "exceptions", "registry"}, "pytest": {"testing"}}

LONGEST = 300


def imported(module: str, source: str, *, package: bool = False) -> Iterator[str]:
    """The rooms of djjp that a module imports, wherever in it: lazily or for type checkers too."""
    here = ["djjp", *module.split(".")]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = here[: len(here) - node.level + package]
                base = ".".join([*up, base] if base else up)
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top == "djjp":
                room = rest.partition(".")[0]
                # What is no room is a public name, which `djjp/__init__.py` takes from `jobs`.
                yield room if room in FLOOR or room in WIRING else "jobs"


def climbs(module: str, source: str, *, package: bool = False) -> list[str]:
    """What is wrong with the imports of one module."""
    room = module.partition(".")[0]
    rooms = sorted(set(imported(module, source, package=package)) - {room})
    if room in WIRING:
        return [f"{room} imports {other}" for other in rooms if other not in WIRING[room]]
    if room not in FLOOR:
        return [f"{module} stands on no floor: put it on one in FLOORS"]
    found = []
    for other in rooms:
        if other in WIRING:
            found.append(f"{module} imports {other}, which is wiring")
        elif HEIGHT[FLOOR[other]] > HEIGHT[FLOOR[room]]:
            found.append(f"{module} ({FLOOR[room]}) climbs to {other} ({FLOOR[other]})")
        elif FLOOR[room] == FLOOR[other] == "face":
            found.append(f"{module} crosses to {other}, its neighbour on the face")
    return found


def asks_for_vendor(source: str) -> list[int]:
    """The lines that look at which database they are on."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and node.attr == "vendor"
    ]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downward(module: str) -> None:
    path = MODULES[module]
    assert climbs(module, path.read_text(), package=path.name == "__init__.py") == []


@pytest.mark.parametrize("module", [m for m in MODULES if m.partition(".")[0] != "claims"])
def test_only_the_claims_know_which_database_they_are_on(module: str) -> None:
    assert asks_for_vendor(MODULES[module].read_text()) == []


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_its_one_job(module: str) -> None:
    source = MODULES[module].read_text()
    if source.strip() and "migrations" not in module:
        assert ast.get_docstring(ast.parse(source)), f"{module} has no docstring"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_short_enough_to_be_read_at_once(module: str) -> None:
    lines = len(MODULES[module].read_text().splitlines())
    assert lines <= LONGEST, f"{module} has {lines} lines: is it one job?"


def test_a_settings_module_may_import_what_it_needs_before_django_is_set_up() -> None:
    """In a fresh interpreter, as `manage.py` starts it: no model, no verb, nothing that is configured."""
    program = (
        "import sys, djjp, djjp.databases\n"
        "djjp.databases.queue_database('queue.sqlite3')\n"
        "print(*(name for name in sys.modules if name.startswith(('djjp', 'django.db.models'))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["djjp", "djjp.databases"]


# The guards themselves


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("conf", "from djjp.models import Job", "conf (ground) climbs to models (storage)"),
        ("conf", "import djjp.engine.jobs", "conf (ground) climbs to claims (storage)"),
        ("conf", "from djjp import claims", "conf (ground) climbs to claims (storage)"),
        ("conf", "from . import claims", "conf (ground) climbs to claims (storage)"),
        ("models", "from djjp import job", "models (storage) climbs to jobs (domain)"),
        ("claims.base", "from ..jobs import job", "claims.base (storage) climbs to jobs (domain)"),
        (
            "claims.base",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from djjp.jobs import job",
            "claims.base (storage) climbs to jobs (domain)",
        ),
        (
            "jobs",
            "def late():\n    from djjp.consumer.pool.threads import ThreadPool",
            "jobs (domain) climbs to consumer (runtime)",
        ),
        (
            "consumer.pools",
            "from djjp.testing import drain",
            "consumer.pools (runtime) climbs to testing (face)",
        ),
        (
            "admin.jobs",
            "import djjp.checks",
            "admin.jobs crosses to checks, its neighbour on the face",
        ),
        ("codec", "from djjp.apps import DjjpConfig", "codec imports apps, which is wiring"),
        ("apps", "from djjp.consumer import consumer", "apps imports consumer"),
        ("helpers", "", "helpers stands on no floor: put it on one in FLOORS"),
    ],
)
def test_the_guard_sees_an_import_that_climbs(module: str, source: str, complaint: str) -> None:
    assert climbs(module, source) == [complaint]


def test_the_guard_sees_a_package_climb_from_its_own_init() -> None:
    found = climbs("claims", "from ..jobs import job\nfrom .base import Claims", package=True)
    assert found == ["claims (storage) climbs to jobs (domain)"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("claims.sqlite", "from djjp.engine.jobs import Claims\nfrom .base import Problem"),
        ("jobs", "from djjp import claims, codec, registry"),
        ("admin.jobs", "from djjp.admin import site\nfrom djjp.jobs import get_job"),
        ("apps", "from djjp import checks, registry"),
        ("conf", "import json\nfrom django.conf import settings"),
    ],
)
def test_the_guard_lets_imports_within_a_room_and_downward_pass(module: str, source: str) -> None:
    assert climbs(module, source) == []


@pytest.mark.parametrize(
    "source",
    [
        "if connection.vendor == 'sqlite':\n    pass",
        "match connections[alias].vendor:\n    case 'sqlite': pass",
        "way = WAYS[connection.vendor]",
    ],
)
def test_the_guard_sees_a_look_at_the_vendor(source: str) -> None:
    assert asks_for_vendor(source) == [1]
