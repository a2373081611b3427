"""What a module of Python is counted by, and which files are modules of a library."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from example_multidb.library.models import Module

# Packages that were installed next to the library are not part of it.
_OTHERS = {"site-packages", "dist-packages", "__pycache__"}


def index(name: str, path: str) -> int:
    """Count what one file defines, and store it; returns its lines.

    A job runs at least once: should a consumer die after the row was stored and before the queue
    knew, the job runs again. So it updates the module's row and never adds another.

    Raises:
        SyntaxError: the file is not Python, or not this Python's. The job fails and keeps it.
    """
    source = Path(path).read_bytes()
    tree = ast.parse(source, path)
    lines, classes, functions, docstrings = len(source.splitlines()), 0, 0, 0
    for node in _statements(tree):
        classes += isinstance(node, ast.ClassDef)
        functions += isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstrings += ast.get_docstring(node, clean=False) is not None
    Module.objects.update_or_create(
        name=name,
        defaults={
            "lines": lines,
            "classes": classes,
            "functions": functions,
            "docstrings": docstrings,
        },
    )
    return lines


def modules(source: Path) -> Iterator[tuple[str, str]]:
    """The name and the path of each module below a folder, in order."""
    for path in sorted(source.rglob("*.py")):
        place = path.relative_to(source).with_suffix("")
        if _OTHERS.isdisjoint(place.parts):
            parts = place.parts[:-1] if place.name == "__init__" else place.parts
            yield ".".join(parts or (source.name,)), str(path)


def packages(source: Path) -> dict[str, list[tuple[str, str]]]:
    """The modules below a folder by their package, which is the folder that they are in."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, path in modules(source):
        parts = Path(path).parent.relative_to(source).parts
        found.setdefault(".".join(parts or (source.name,)), []).append((name, path))
    return found


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """A module and all statements in it: definitions are statements, so expressions are skipped."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield from _statements(child)
