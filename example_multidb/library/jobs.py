"""A job that indexes one module. djjp finds this file by itself, as Django finds `admin.py`."""

from __future__ import annotations

from djjp import job
from example_multidb.library.counting import index


@job(name="library.index_module")
def index_module(name: str, path: str) -> int:
    """Index one module; returns its lines."""
    return index(name, path)
