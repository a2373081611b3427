"""Exit conditions of a consumer process beside its jobs: its memory, its supervisor, its code.

Each condition is checked about once a second, on a thread that ends with the consumer. Each lets the consumer
end after its running jobs. Only the loss of the supervisor sets them a time, as a signal does: jobs that still
run after the shutdown timeout are released.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from django.apps import apps
from django.utils import autoreload

logger = logging.getLogger("djjp.consumer")

_CHECK_SECONDS = 1.0
_MB = 1024 * 1024
#: The files of an app that are imported because of their names.
_DISCOVERED = ("jobs.py", "jobs/__init__.py", "tasks.py", "tasks/__init__.py")
_STATM = Path("/proc/self/statm")


class ExitCondition(NamedTuple):
    """A reason to end the consumer.

    Attributes:
        check: returns the reason in words, to follow the consumer's name; None while there is none.
        end: ends the consumer; called once, when `check` first returns a reason.
        level: of the log line.
    """

    check: Callable[[], str | None]
    end: Callable[[], None]
    level: int = logging.WARNING


def memory_over(limit: int) -> Callable[[], str | None]:
    """Return a check for this process holding more than `limit` MB of memory."""

    def check() -> str | None:
        held = resident_memory() / _MB
        if held > limit:
            return f"holds {held:.0f} MB of memory, more than the {limit} allowed"
        return None

    return check


def supervisor_gone(pid: int) -> Callable[[], str | None]:
    """Return a check for the end of the supervisor `pid`: this process then gets another parent."""

    def check() -> str | None:
        if os.getppid() != pid:
            return f"has lost its supervisor, process {pid}"
        return None

    return check


def code_changed() -> Callable[[], str | None]:
    """Return a check for changes, from this call on, for which Django's own server would restart.

    Django watches what is imported. So an app's first `jobs.py` or `tasks.py` is watched for in addition.
    """
    files = [Path(app.path, name) for app in apps.get_app_configs() for name in _DISCOVERED]
    absent = [file for file in files if not file.exists()]
    reloader = autoreload.StatReloader()
    autoreload.autoreload_started.send(sender=reloader)
    seen = dict(reloader.snapshot_files())

    def changes() -> Iterator[Path]:
        yield from (file for file in absent if file.exists())
        for path, mtime in reloader.snapshot_files():
            if seen.setdefault(path, mtime) < mtime:
                seen[path] = mtime
                yield path

    def check() -> str | None:
        for path in changes():
            try:
                # Django first offers the change to receivers that can apply it without a restart,
                # as the template engine can. When none does, it raises SystemExit.
                reloader.notify_file_changed(path)
            except SystemExit:
                return f"runs code that has changed ({path})"
        return None

    return check


def resident_memory() -> int:
    """Return the bytes of memory that this process holds; without /proc, the most that it ever held."""
    try:
        return int(_STATM.read_text().split()[1]) * resource.getpagesize()
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


@contextmanager
def check_exit_conditions(name: str, conditions: Sequence[ExitCondition]) -> Iterator[None]:
    """Check the conditions on a thread while the block runs.

    Args:
        name: of the consumer, for the log.
    """
    over = threading.Event()

    def work() -> None:
        pending = list(conditions)
        while pending and not over.wait(_CHECK_SECONDS):
            for condition in list(pending):
                try:
                    if reason := condition.check():
                        pending.remove(condition)
                        condition.end()
                        logger.log(
                            condition.level, "consumer %s %s; ends after its jobs", name, reason
                        )
                except Exception:
                    logger.exception("consumer %s: the check of an exit condition raised", name)

    if conditions:
        thread = threading.Thread(target=work, name="djjp-exit-conditions", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            text = "the system refuses a thread (%s): consumer %s does not check when it must end"
            logger.warning(text, error, name)
    try:
        yield
    finally:
        over.set()
