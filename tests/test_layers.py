"""The layers: imports point downward only, and never in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.support.imports import (
    HEIGHT,
    LAYER,
    LAYERS,
    MODULES,
    PACKAGE,
    PLANNED,
    WIRING,
    between_packages,
    circles,
    import_graph,
    imported,
    package_of,
)

pytestmark = pytest.mark.one_pair

# Circles that are still to be cut, as groups of modules. A new one fails, and so does a listed one that is gone.
KNOWN_CIRCLES: list[list[str]] = []
KNOWN_PACKAGE_CIRCLES: list[list[str]] = []


def violations(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """Return what is wrong with the imports of one module, each as a message."""
    package = package_of(module)
    packages = {package_of(other) for other in imported(module, source, is_package=is_package)}
    others = sorted(packages - {package})
    if package in WIRING:
        return [f"{package} imports {other}" for other in others if other not in WIRING[package]]
    if package not in LAYER:
        return [f"{module} is in no layer: add it to LAYERS"]
    found = []
    for other in others:
        if other in WIRING:
            found.append(f"{module} imports {other}, which is wiring")
        elif HEIGHT[LAYER[other]] > HEIGHT[LAYER[package]]:
            found.append(
                f"{module} ({LAYER[package]}) imports upward from {other} ({LAYER[other]})"
            )
        elif LAYER[package] == LAYER[other] == "interface":
            found.append(f"{module} imports {other}, its neighbour on the interface layer")
    return found


def vendor_checks(source: str) -> list[int]:
    """Return the lines that read a connection's vendor."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and node.attr == "vendor"
    ]


def test_imports_point_downward() -> None:
    assert [
        violation
        for module, path in MODULES.items()
        for violation in violations(module, path.read_text(), is_package=path.name == "__init__.py")
    ] == []


def test_modules_do_not_import_in_circles() -> None:
    assert circles(import_graph()) == KNOWN_CIRCLES


def test_packages_do_not_import_in_circles() -> None:
    assert circles(between_packages(import_graph())) == KNOWN_PACKAGE_CIRCLES


def test_only_the_engine_checks_which_database_it_is_on() -> None:
    others = [module for module in MODULES if package_of(module) != "engine"]
    found = {module: vendor_checks(MODULES[module].read_text()) for module in others}
    assert {module: checks for module, checks in found.items() if checks} == {}


def test_the_layers_list_the_packages_that_exist() -> None:
    existing = {package_of(module) for module in MODULES} - set(WIRING)
    listed = [package for packages in LAYERS.values() for package in packages]
    assert sorted(listed) == sorted(existing | PLANNED)
    assert not existing & PLANNED


def test_a_settings_module_may_import_what_it_needs_before_django_is_set_up() -> None:
    """In a fresh interpreter, as `manage.py` starts it: no model, no engine, nothing that is configured."""
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
        (
            "conf",
            "from djjp.models import Job",
            "conf (foundation) imports upward from models (storage)",
        ),
        (
            "conf",
            "import djjp.engine.records",
            "conf (foundation) imports upward from engine (storage)",
        ),
        (
            "conf",
            "from djjp import engine",
            "conf (foundation) imports upward from engine (storage)",
        ),
        ("conf", "from . import engine", "conf (foundation) imports upward from engine (storage)"),
        ("models", "from djjp import job", "models (storage) imports upward from jobs (domain)"),
        (
            "models",
            "from djjp import chain",
            "models (storage) imports upward from pipelines (domain)",
        ),
        (
            "engine.records",
            "from ..jobs import job",
            "engine.records (storage) imports upward from jobs (domain)",
        ),
        (
            "engine.records",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from djjp.jobs import job",
            "engine.records (storage) imports upward from jobs (domain)",
        ),
        (
            "jobs",
            "def late():\n    from djjp.consumer.pool.threads import ThreadPool",
            "jobs (domain) imports upward from consumer (runtime)",
        ),
        (
            "consumer.turn",
            "from djjp.testing import drain",
            "consumer.turn (runtime) imports upward from testing (interface)",
        ),
        (
            "monitoring",
            "from djjp.consumer import rescue",
            "monitoring (facts) imports upward from consumer (runtime)",
        ),
        (
            "admin.jobs",
            "import djjp.checks",
            "admin.jobs imports checks, its neighbour on the interface layer",
        ),
        ("codec", "from djjp.apps import DjjpConfig", "codec imports apps, which is wiring"),
        ("apps", "from djjp.consumer import consumer", "apps imports consumer"),
        ("helpers", "", "helpers is in no layer: add it to LAYERS"),
    ],
)
def test_the_guard_reports_an_import_that_points_upward(
    module: str, source: str, complaint: str
) -> None:
    assert violations(module, source) == [complaint]


def test_the_guard_reads_relative_imports_of_a_package() -> None:
    found = violations(
        "engine", "from ..jobs import job\nfrom .records import NewJob", is_package=True
    )
    assert found == ["engine (storage) imports upward from jobs (domain)"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("engine.sqlite", "from djjp.engine.records import NewJob\nfrom .listener import Problem"),
        ("jobs", "from djjp import codec, engine, queues"),
        ("admin.jobs", "from djjp.admin import site\nfrom djjp.jobs import get_job"),
        ("apps", "from djjp import checks, jobs"),
        ("conf", "import json\nfrom django.conf import settings"),
        ("conf", "import djjp\nfrom djjp import durations"),
    ],
)
def test_the_guard_accepts_imports_within_a_package_and_downward(module: str, source: str) -> None:
    assert violations(module, source) == []


SKETCH = {"jobs": 0, "jobs.bound": 0, "jobs.decorator": 0, "schedules": 0}


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        # A package that re-exports from its modules, and a module that imports its sibling.
        (
            {
                "jobs": "from djjp.jobs.decorator import job",
                "jobs.decorator": "from djjp.jobs.bound import bind",
            },
            [],
        ),
        # The sibling imports back, for type checkers only.
        (
            {
                "jobs.decorator": "from djjp.jobs.bound import bind",
                "jobs.bound": "if TYPE_CHECKING:\n    from djjp.jobs.decorator import job",
            },
            [["jobs.bound", "jobs.decorator"]],
        ),
        # A module imports a name from its own package.
        (
            {
                "jobs": "from djjp.jobs.decorator import job",
                "jobs.decorator": "from djjp.jobs import Limit",
            },
            [["jobs", "jobs.decorator"]],
        ),
        # The same by a relative import, and through a public name.
        (
            {"jobs": "from .decorator import job", "jobs.decorator": "from djjp import job"},
            [["jobs", "jobs.decorator"]],
        ),
        # A sibling as a module is no name from the package.
        (
            {
                "jobs": "from djjp.jobs.decorator import job",
                "jobs.decorator": "from djjp.jobs import bound",
            },
            [],
        ),
        # Through a module of another package, lazily.
        (
            {
                "jobs.decorator": "def late():\n    from djjp import schedules",
                "schedules": "from djjp.jobs import job",
                "jobs": "from djjp.jobs.decorator import job",
            },
            [["jobs", "jobs.decorator", "schedules"]],
        ),
    ],
)
def test_the_guard_finds_circles(sources: dict[str, str], expected: list[list[str]]) -> None:
    graph = {
        name: set(imported(name, sources.get(name, ""), is_package=name == "jobs", modules=SKETCH))
        for name in SKETCH
    }
    assert circles(graph) == expected


def test_the_guard_finds_circles_of_packages_whose_modules_make_none() -> None:
    graph = {"jobs.a": {"outbox.a"}, "outbox.a": set(), "outbox.b": {"jobs.b"}, "jobs.b": set()}
    assert circles(graph) == []
    assert circles(between_packages(graph)) == [["jobs", "outbox"]]


@pytest.mark.parametrize(
    "source",
    [
        "if connection.vendor == 'sqlite':\n    pass",
        "match connections[alias].vendor:\n    case 'sqlite': pass",
        "way = WAYS[connection.vendor]",
    ],
)
def test_the_guard_sees_a_check_of_the_vendor(source: str) -> None:
    assert vendor_checks(source) == [1]
