"""Hints: what would be right, where somebody uses another queue's word or gives what is no bound call."""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

_ENQUEUE = dict.fromkeys(("delay", "enqueue", "defer", "send", "delay_on_commit"), "run_later(…)")
_AENQUEUE = dict.fromkeys(("adelay", "aenqueue", "adefer", "asend"), "arun_later(…)")
_ENQUEUE_WITH = dict.fromkeys(
    ("apply_async", "schedule", "configure", "enqueue_in", "enqueue_at", "send_with_options"),
    "using(…).run_later(…)",
)
_BIND = dict.fromkeys(("s", "si", "signature", "subtask", "message"), "bind(…)")
_RUN_MANY = dict.fromkeys(("map", "starmap", "chunks"), "run_many(job.bind(…) for …)")

#: For a job: another queue's word, and djjp's.
OF_JOB = {**_ENQUEUE, **_AENQUEUE, **_ENQUEUE_WITH, **_BIND, **_RUN_MANY}
#: For a bound call or a pipeline.
OF_CALL = {
    **dict.fromkeys((*_ENQUEUE, "apply_async"), "run_later()"),
    **dict.fromkeys(_AENQUEUE, "arun_later()"),
    "using": "using(…) before bind(…)",
}
#: For an expansion, which is only ever a step.
OF_EXPANSION = dict.fromkeys(
    ("run_later", "arun_later", *_ENQUEUE, *_AENQUEUE), "chain(…, expand(…)).run_later()"
)
#: For a handle.
OF_HANDLE = {
    **dict.fromkeys(("get", "wait"), "join(timeout=…)"),
    **dict.fromkeys(("aget", "await_result"), "ajoin(timeout=…)"),
    **dict.fromkeys(("ready", "is_finished", "done", "finished"), "ended"),
    **dict.fromkeys(("status", "successful", "failed", "get_status", "succeeded"), "state"),
    **dict.fromkeys(("revoke", "abort", "delete"), "cancel()"),
    **dict.fromkeys(("return_value", "value"), "result"),
    **dict.fromkeys(("traceback", "error", "exception", "exc_info"), "errors"),
    **dict.fromkeys(("enqueued_at", "date_created"), "created_at"),
    **dict.fromkeys(("ended_at", "date_done"), "finished_at"),
    "requeue": "retry()",
}

#: For an option of `@job`.
OF_OPTIONS = {
    **dict.fromkeys(("retries", "max_retries", "retry", "attempts"), "max_attempts"),
    **dict.fromkeys(("retry_backoff", "retry_delay", "default_retry_delay"), "backoff"),
    **dict.fromkeys(("autoretry_for", "retry_for"), "retry_on"),
    **dict.fromkeys(("time_limit", "soft_time_limit", "job_timeout"), "timeout"),
    **dict.fromkeys(("queue_name", "queue_class"), "queue"),
    **dict.fromkeys(("expires", "ttl"), "expires_after"),
    **dict.fromkeys(("rate_limit", "rate", "concurrency"), "limit"),
    **dict.fromkeys(("crontab", "schedule"), "cron"),
    **dict.fromkeys(("interval", "repeat"), "every"),
    **dict.fromkeys(("timezone", "time_zone", "tzinfo"), "tz"),
    **dict.fromkeys(("lock", "singleton", "queueing_lock", "unique"), "unique_key"),
}


class Hints:
    """Attributes that do not exist, and what would be right instead."""

    __slots__ = ()

    _words: ClassVar[Mapping[str, str]]

    if not TYPE_CHECKING:  # a type checker would take any attribute for one that exists

        def __getattr__(self, name: str) -> NoReturn:
            message = f"{type(self).__name__!r} object has no attribute {name!r}"
            right = self._words.get(name)
            if right is not None:
                message += f"; in djjp it is {right}"
            raise AttributeError(message, name=name, obj=self)


def to_bind(value: Any) -> str:
    """Return what would be a bound call, for something that is none."""
    if isinstance(value, FunctionType):
        return f"a bound call: make it a job with @job, and write {value.__name__}.bind(…)"
    if hasattr(value, "module_path") and hasattr(value, "func"):
        return f"a bound call: as_job({value.func.__name__}).bind(…), for a task"
    function = getattr(value, "function", None)
    if isinstance(function, FunctionType) and hasattr(value, "bind"):
        return f"a bound call: {function.__module__}.{function.__qualname__}.bind(…)"
    return "a bound call, as job.bind(…) returns it"
