"""The jobs that index a library. djjp finds this file by itself, as Django finds `admin.py`."""

from __future__ import annotations

import sysconfig
from itertools import cycle
from pathlib import Path

from djjp import chain, group, job
from djjp.backend import as_job
from example_multidb.library import tasks
from example_multidb.library.counting import index, packages
from example_multidb.library.models import Package


@job(name="library.index_library", cron="0 3 * * *", catch_up="none")
def index_library(source: str | None = None) -> int:
    """List the modules below a folder, Python's own library by default, and enqueue their pipeline.

    It is a step of its own because a group's members have to be known when it is enqueued. Every night
    at 3 it runs by itself.

    Returns:
        How many modules there are.
    """
    found = packages(Path(source or sysconfig.get_paths()["stdlib"]))
    # One half as jobs, the other as tasks of Django's own framework: they share everything.
    kinds = cycle([index_module, as_job(tasks.index_module)])
    group(
        *(
            chain(
                group(*(next(kinds).bind(*module) for module in modules)),
                summarise.bind(package),
                on_failure=note_failure.bind(package),
            )
            for package, modules in found.items()
        )
    ).run_later()
    return sum(map(len, found.values()))


@job(name="library.index_module")
def index_module(name: str, path: str) -> int:
    """Index one module; returns its lines."""
    return index(name, path)


@job(name="library.summarise")
def summarise(lines: list[int], package: str) -> None:
    """Store what the modules of a package come to; `lines` are the results of the group before it."""
    sums = {"modules": len(lines), "lines": sum(lines), "reason": ""}
    Package.objects.update_or_create(name=package, defaults=sums)


@job(name="library.note_failure")
def note_failure(reason: str, package: str) -> None:
    """Store why a package has no summary: runs only where a module of it could not be indexed."""
    sums = {"modules": 0, "lines": 0, "reason": reason}
    Package.objects.update_or_create(name=package, defaults=sums)
