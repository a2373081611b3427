"""Instruments: code of a project around each enqueue and each run of a job, which cannot harm any of them.

`DJJP["instruments"]` names their classes. One that raises is left out of the enqueue or the run, and is logged
at most once a minute. Each class is instantiated once in a process for each value of the setting.

The context is a dict that the instruments fill when a job is enqueued, and read when it runs. It is kept as JSON
text in the job's row; a job without one has no text.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Literal, NamedTuple
from uuid import UUID

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from djjp import conf, jsontext
from djjp.forks import in_child

__all__ = ["Call", "Instrument", "JobRun"]

logger = logging.getLogger("djjp.instruments")

#: The number of characters of a context as text.
LONGEST_CONTEXT = 4096
# Seconds between two log records about one instrument, and between two attempts to load it.
_LOG_EVERY = 60.0
# What an instrument raises and a job does not get. All else ends the job or the process, as an interruption does.
_HARMLESS = (Exception, SystemExit)

#: What becomes of a job after a run.
Ending = Literal["succeeded", "failed", "cancelled", "retry"]

#: Whether there are instruments, as last read by `refresh`: each execution tests it.
in_use = False


@dataclass(frozen=True, slots=True)
class Call:
    """A job that is being enqueued, as instruments and receivers of `job_enqueued` get it.

    Attributes:
        id, name, queue, priority: those of the job.
        run_after: its earliest start; None for at once.
        pipeline: the id of its pipeline; None outside of any.
        schedule: the name of the schedule that has fired it; None for any other call.
    """

    id: UUID
    name: str
    queue: str
    priority: int
    run_after: datetime | None = None
    pipeline: UUID | None = None
    schedule: str | None = None


@dataclass(slots=True, eq=False)
class JobRun:
    """One run of a job, as instruments and the receivers of signals get it.

    Attributes:
        id, name, queue: those of the job.
        attempt: the number of this run, from 1.
        rescues: how often the job has lost its consumer before.
        context: what instruments have put there when it was enqueued.
        consumer: the name of the consumer that runs it.
        enqueued_at: when it was enqueued.
        started_at: when this run started.
        waited: for how many seconds it was due before; None after a retry, a rescue or a release.
        exception: what it raised; None while it runs, and when it has returned.
        outcome: what becomes of the job: "succeeded", "failed", "cancelled" or "retry"; None while it runs.
        run_after: when it runs again after "retry"; None for at once.
    """

    id: UUID
    name: str
    queue: str
    attempt: int
    rescues: int
    context: dict[str, Any]
    consumer: str
    enqueued_at: datetime
    started_at: datetime
    waited: float | None
    exception: BaseException | None = None
    outcome: Ending | None = None
    run_after: datetime | None = None


class Instrument:
    """The base class of instruments, which does nothing. A subclass defines one of the two methods, or both."""

    def enqueue(
        self, calls: Sequence[Call], context: dict[str, Any]
    ) -> AbstractContextManager[object]:
        """Return the context manager around an enqueue, of one call or of many together.

        Args:
            calls: the jobs that are enqueued: one, those of a batch, or the steps of a pipeline.
            context: the dict that travels with each of them. What is put into it on entering is kept, if it is
                JSON and all of it has at most 4,096 characters as text.
        """
        return nullcontext()

    def run(self, job: JobRun) -> AbstractContextManager[object]:
        """Return the context manager around a run, on the thread or the task of the job.

        On exit it gets the exception of the job, which it cannot suppress. `job.exception` and `job.outcome` are
        set by then.
        """
        return nullcontext()


class Loaded(NamedTuple):
    """An instrument, and the dotted path of its class."""

    path: str
    instrument: Instrument


# The instances


class _Instances(NamedTuple):
    """The instruments of one value of the setting, and when those that could not be loaded are tried again."""

    loaded: Sequence[Loaded]
    retry_at: float | None


# Reentrant, because what is imported can enqueue jobs.
_lock = threading.RLock()
_instances: dict[tuple[str, ...], _Instances] = {}
_logged: dict[str, float] = {}  # when each path was logged last


def refresh() -> bool:
    """Read the setting; return whether it names instruments."""
    global in_use
    in_use = bool(conf.current().instruments)
    return in_use


def current() -> Sequence[Loaded]:
    """Return the instruments in force now, without those that cannot be loaded, which are logged."""
    paths = tuple(conf.current().instruments)
    if not paths:
        return ()
    found = _instances.get(paths)
    if found is None or (found.retry_at is not None and found.retry_at <= time.monotonic()):
        with _lock:
            if _instances.get(paths) is found:
                _instances[paths] = _load_all(paths, () if found is None else found.loaded)
            return _instances[paths].loaded
    return found.loaded


def require() -> None:
    """Load all instruments.

    Raises:
        ImproperlyConfigured: one of them cannot be loaded.
    """
    loaded = {path for path, _ in current()}
    for path in conf.current().instruments:
        if path not in loaded:
            _load(path)


def _load_all(paths: Sequence[str], before: Sequence[Loaded]) -> _Instances:
    known = dict(before)
    for path in paths:
        if path not in known:
            try:
                known[path] = _load(path)
            except ImproperlyConfigured as error:
                if _may_log(path):
                    logger.error("instrument %s is left out: %s", path, error)  # noqa: TRY400  (its text has the cause)
    loaded = [Loaded(path, known[path]) for path in paths if path in known]
    missing = len(loaded) < len(paths)
    return _Instances(loaded, time.monotonic() + _LOG_EVERY if missing else None)


def _load(path: str) -> Instrument:
    try:
        found = import_string(path)
    except _HARMLESS as error:
        raise _wrong(path, f"cannot be imported: {_described(error)}") from error
    if not isinstance(found, type):
        raise _wrong(path, f"is {found!r}; it must be a class")
    if not any(callable(getattr(found, method, None)) for method in ("enqueue", "run")):
        raise _wrong(path, "has neither a method enqueue() nor run()")
    try:
        instrument: Instrument = found()
    except _HARMLESS as error:
        raise _wrong(path, f"cannot be instantiated: {_described(error)}") from error
    return instrument


def _wrong(path: str, problem: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"DJJP['instruments'] names {path!r}, which {problem}")


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


@in_child
def _forget() -> None:
    """Have a forked child make instruments of its own, and take no lock of its parent's."""
    global _lock
    _lock = threading.RLock()
    _instances.clear()
    _logged.clear()


def _on_setting_changed(*, setting: str, **kwargs: Any) -> None:
    if setting == "DJJP":
        _logged.clear()


setting_changed.connect(_on_setting_changed, dispatch_uid="djjp.instruments")


def _may_log(path: str) -> bool:
    """Return whether an instrument can be logged now: no record about it was made in the last minute."""
    now = time.monotonic()
    last = _logged.get(path)
    if last is not None and now - last < _LOG_EVERY:
        return False
    _logged[path] = now
    return True


# Their use


class Around:
    """The context managers of the instruments around one enqueue or one run: entered in order, left in reverse."""

    def __init__(self) -> None:
        self._entered: list[tuple[str, str, AbstractContextManager[object]]] = []

    def enter(
        self, path: str, hook: str, make: Callable[[], AbstractContextManager[object]]
    ) -> bool:
        """Enter the context manager of one instrument; return False if that raises."""
        try:
            manager = make()
            manager.__enter__()
        except _HARMLESS as error:
            _log_raised(path, hook, error)
            return False
        self._entered.append((path, hook, manager))
        return True

    def leave(self, error: BaseException | None) -> None:
        """Leave all context managers with the exception of what they are around, which they cannot suppress."""
        while self._entered:
            path, hook, manager = self._entered.pop()
            try:
                if error is None:
                    manager.__exit__(None, None, None)
                else:
                    manager.__exit__(type(error), error, error.__traceback__)
            except BaseException as raised:
                if raised is error:
                    continue
                if not isinstance(raised, _HARMLESS):
                    self.leave(error)
                    raise
                _log_raised(path, hook, raised)


@contextmanager
def around_enqueue(calls: Sequence[Call]) -> Iterator[str | None]:
    """Be inside the instruments while calls are enqueued; give the text of their context, if there is one."""
    around, context = Around(), dict[str, Any]()
    text: str | None = None
    try:
        for path, instrument in current():
            if (hook := getattr(instrument, "enqueue", None)) is not None:
                entered = around.enter(path, "enqueue", partial(hook, calls, context))
                text = _accepted(path, context, text) if entered else _reset(context, text)
        yield text
    except BaseException as error:
        around.leave(error)
        raise
    around.leave(None)


def enter_run(around: Around, job: JobRun) -> None:
    """Enter the instruments of a run."""
    for path, instrument in current():
        if (hook := getattr(instrument, "run", None)) is not None:
            around.enter(path, "run", partial(hook, job))


def _log_raised(path: str, hook: str, error: BaseException) -> None:
    if _may_log(path):
        logger.error("instrument %s raised in %s(); no job is harmed", path, hook, exc_info=error)


# The context


def to_context(text: object) -> dict[str, Any]:
    """Return the context of a row's text; an empty one for no text, or for a damaged one."""
    if not isinstance(text, str):
        return {}
    try:
        context = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return context if isinstance(context, dict) else {}


def to_text(context: dict[str, Any]) -> str | None:
    """Return the text of a context; None for an empty one.

    Raises:
        ValueError, TypeError, RecursionError: it is no JSON, or too long.
    """
    if not context:
        return None
    text = jsontext.dumps(context)
    if len(text) > LONGEST_CONTEXT:
        raise ValueError(
            f"it has {len(text):,} characters as text; a context can have {LONGEST_CONTEXT:,}"
        )
    return text


def _accepted(path: str, context: dict[str, Any], before: str | None) -> str | None:
    """Return the text of a context with what an instrument has added, or without, if that is not allowed."""
    try:
        return to_text(context)
    except (ValueError, TypeError, RecursionError) as error:
        if _may_log(path):
            logger.error("what instrument %s adds to the context is dropped: %s", path, error)  # noqa: TRY400  (its text has the cause)
        return _reset(context, before)


def _reset(context: dict[str, Any], text: str | None) -> str | None:
    context.clear()
    context.update(to_context(text))
    return text
