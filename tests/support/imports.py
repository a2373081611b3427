"""The floors of the package, and which of its modules imports which, read from the sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import djjp

PACKAGE = Path(djjp.__file__).parent

#: Every module beneath `djjp`, by its name without `djjp.`. A package goes by its own name.
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py"
}

#: Lowest first. A room is a module or a whole package directly beneath `djjp`.
FLOORS = {
    "ground": [
        "codec",
        "conf",
        "databases",
        "durations",
        "exceptions",
        "ids",
        "jsontext",
        "recurrence",
        "routers",
    ],
    "storage": ["engine", "migrations", "models"],
    "domain": ["jobs", "limits", "outbox", "pipelines", "queues", "schedules", "tasks"],
    "runtime": ["consumer"],
    "facts": ["monitoring"],
    "face": ["admin", "api", "backend", "checks", "contrib", "management", "testing"],
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
HEIGHT = {floor: height for height, floor in enumerate(FLOORS)}

#: Rooms that have a floor and are not built yet.
PLANNED = {"api", "contrib"}

#: What connects djjp to Django and to pytest is on no floor, and imports these rooms only.
WIRING = {"apps": {"backend", "checks", "exceptions", "jobs"}, "pytest": {"testing"}}


def room_of(module: str) -> str:
    return module.partition(".")[0]


def imported(
    module: str, source: str, *, package: bool = False, modules: Mapping[str, object] = MODULES
) -> Iterator[str]:
    """Return the modules of djjp that a module imports: at its top, lazily, and for type checkers.

    A public name of `djjp` counts as an import of the module that `djjp/__init__.py` takes it from.
    """
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
            if top == "djjp" and rest:
                yield _module(rest, modules)


def _module(name: str, modules: Mapping[str, object]) -> str:
    """Return the module that `name` is, or is defined in."""
    while name not in modules:
        rest, _, last = name.rpartition(".")
        if not rest:
            if name in FLOOR or name in WIRING:
                return name
            return djjp._HOMES.get(last, "djjp.jobs").partition(".")[2]
        name = rest
    return name


@cache
def import_graph() -> dict[str, set[str]]:
    """Return each module's imports of other modules of djjp."""
    return {
        module: set(imported(module, path.read_text(), package=path.name == "__init__.py"))
        - {module}
        for module, path in MODULES.items()
    }


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the groups of nodes that import one another, directly or through others.

    They are the strongly connected components of more than one node. A package that imports its modules makes
    a circle only with those of them that import a name from the package.
    """
    reached = {node: _reached(graph, node) for node in graph}
    groups = {
        tuple(sorted(other for other in reached[node] if node in reached.get(other, ())))
        for node in graph
        if node in reached[node]
    }
    return sorted(list(group) for group in groups)


def _reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    ahead = list(graph[start])
    while ahead:
        node = ahead.pop()
        if node not in found:
            found.add(node)
            ahead.extend(graph.get(node, ()))
    return found


def between_rooms(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return the same imports with each module replaced by its room."""
    rooms: dict[str, set[str]] = {}
    for module, others in graph.items():
        room = room_of(module)
        rooms.setdefault(room, set()).update(room_of(other) for other in others)
    return {room: others - {room} for room, others in rooms.items()}
