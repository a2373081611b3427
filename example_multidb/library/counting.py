"""Count the definitions in a Python module, and find the modules of a library."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from example_multidb.library.models import Module

# Folders that are not part of the library.
_OTHERS = {"site-packages", "dist-packages", "__pycache__"}


def index(name: str, path: str) -> int:
    """Count the definitions in one file, and store the counts; return its number of lines.

    A job runs at least once: if its consumer dies after the row is stored and before the outcome is written, the
    job runs again. So it updates the module's row and never adds another.

    Raises:
        SyntaxError: the file is not valid Python for this version. The job fails with this error.
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
    """Yield the name and the path of each module in a folder and its subfolders, in order."""
    for path in sorted(source.rglob("*.py")):
        place = path.relative_to(source).with_suffix("")
        if _OTHERS.isdisjoint(place.parts):
            parts = place.parts[:-1] if place.name == "__init__" else place.parts
            yield ".".join(parts or (source.name,)), str(path)


def packages(source: Path) -> dict[str, list[tuple[str, str]]]:
    """Return the modules by package; the package is the folder that contains the module."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, path in modules(source):
        parts = Path(path).parent.relative_to(source).parts
        found.setdefault(".".join(parts or (source.name,)), []).append((name, path))
    return found


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a module and all its statements; definitions are statements, so expressions are skipped."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield from _statements(child)
