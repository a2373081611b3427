"""The jobs that index a library. djjp imports this file automatically, as Django imports `admin.py`."""

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
    """List the modules in a folder, by default Python's standard library, and enqueue their pipeline.

    This is a separate job because the members of a group must be known when the group is enqueued. Its schedule
    runs it every night at 3.

    Returns:
        The number of modules.
    """
    found = packages(Path(source or sysconfig.get_paths()["stdlib"]))
    # One half as jobs, the other half as tasks of Django's own framework: both can be steps.
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
    """Index one module; return its number of lines."""
    return index(name, path)


@job(name="library.summarise")
def summarise(lines: list[int], package: str) -> None:
    """Store the sums of a package; `lines` are the results of the group before this step."""
    sums = {"modules": len(lines), "lines": sum(lines), "reason": ""}
    Package.objects.update_or_create(name=package, defaults=sums)


@job(name="library.note_failure")
def note_failure(reason: str, package: str) -> None:
    """Store the reason why a package has no summary; runs only if one of its modules could not be indexed."""
    sums = {"modules": 0, "lines": 0, "reason": reason}
    Package.objects.update_or_create(name=package, defaults=sums)
