"""The job `index_module` as a task of Django's own framework; both share queue, consumer and admin."""

from __future__ import annotations

from importlib import import_module

from djjp.tasks.compat import PACKAGE
from example_multidb.library.counting import index

# `from django.tasks import task`; on Django 5.2 from the backport, `django_tasks`.
task = import_module(PACKAGE).task


@task  # type: ignore[untyped-decorator]  # the backport and Django are typed in different ways
def index_module(name: str, path: str) -> int:
    """Index one module; return its number of lines."""
    return index(name, path)
