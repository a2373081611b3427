"""The layers of the package, and which of its modules imports which, read from the sources."""

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

#: Lowest first. A module directly beneath `djjp` counts as a package.
LAYERS = {
    "foundation": [
        "bounds",
        "call_options",
        "codec",
        "conf",
        "databases",
        "durations",
        "errors",
        "exceptions",
        "fork_threads",
        "forks",
        "ids",
        "init",
        "instruments",
        "jsontext",
        "logs",
        "recurrence",
        "redaction",
        "routers",
        "signals",
        "streams",
        "unapplied",
        "weak_groups",
    ],
    "storage": ["engine", "migrations", "models"],
    "domain": [
        "jobs",
        "limits",
        "outbox",
        "pipelines",
        "queues",
        "schedules",
        "served",
        "tasks",
        "tokens",
    ],
    "facts": ["monitoring"],
    "runtime": ["consumer"],
    "interface": ["admin", "api", "backend", "checks", "contrib", "management", "testing"],
}
LAYER = {package: layer for layer, packages in LAYERS.items() for package in packages}
HEIGHT = {layer: height for height, layer in enumerate(LAYERS)}

#: Packages whose place another one decides: Django loads the tags of the admin's pages from their own package.
PART_OF = {"templatetags": "admin"}

#: Packages that have a layer and are not built yet.
PLANNED: set[str] = set()

#: What connects djjp to Django and to pytest is in no layer, and imports these packages only.
WIRING = {
    "__main__": set(),
    "apps": {"backend", "checks", "exceptions", "jobs", "logs"},
    "pytest": {"testing"},
}


def package_of(module: str) -> str:
    package = module.partition(".")[0]
    return PART_OF.get(package, package)


def imported(
    module: str, source: str, *, is_package: bool = False, modules: Mapping[str, object] = MODULES
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
                up = here[: len(here) - node.level + is_package]
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
            if name in LAYER or name in WIRING:
                return name
            return djjp._HOMES.get(last, "djjp.jobs").partition(".")[2]
        name = rest
    return name


@cache
def import_graph() -> dict[str, set[str]]:
    """Return each module's imports of other modules of djjp."""
    return {
        module: set(imported(module, path.read_text(), is_package=path.name == "__init__.py"))
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


def between_packages(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return the same imports with each module replaced by its package."""
    packages: dict[str, set[str]] = {}
    for module, others in graph.items():
        package = package_of(module)
        packages.setdefault(package, set()).update(package_of(other) for other in others)
    return {package: others - {package} for package, others in packages.items()}
