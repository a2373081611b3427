"""Arguments and results of rows as they can be shown: without the values that `DJJP["redact"]` hides.

Whatever shows arguments, inputs or results of jobs takes their texts from here: pages, commands, answers, logs.
The name of a row leads to the signature of its function, which names positional arguments. If no job of that name
is registered in this process, all arguments are hidden.
"""

from __future__ import annotations

from collections.abc import Iterable
from inspect import Parameter

from djjp import redaction
from djjp.jobs import registry
from djjp.models import Flag

# The arguments of these rows lack the first one: it comes from the pipeline.
_HAVE_INPUT = Flag.TAKES_INPUT | Flag.COLLECTS


def arguments(name: str, text: str, flags: int = 0) -> str:
    """Return the codec's text of the arguments of a row.

    Args:
        name: the row's job.
        flags: the row's; 0 for a schedule.
    """
    return redaction.call(text, _parameters(name), has_input=bool(flags & _HAVE_INPUT))


def given(name: str, text: str) -> str:
    """Return the codec's text of a row's input: what the jobs before it have returned, or why they failed."""
    return redaction.first(text, _parameters(name))


def result(text: str) -> str:
    """Return the codec's text of a result."""
    return redaction.value(text)


def _parameters(name: str) -> Iterable[Parameter] | None:
    job = registry.find(name)
    return None if job is None else job.signature.parameters.values()
