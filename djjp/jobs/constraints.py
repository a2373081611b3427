"""The constraints of one call, as columns of its row: a limit or a rate, a unique key, an expiry."""

from __future__ import annotations

import inspect
from typing import Any

from djjp import codec, limits
from djjp.durations import END_OF_TIME, seconds
from djjp.engine import NewJob
from djjp.jobs.options import JobOptions
from djjp.limits import Limit
from djjp.models import Flag


def apply(
    options: JobOptions, signature: inspect.Signature, row: NewJob, *, takes_input: bool = False
) -> NewJob:
    """Return the row of a call with the columns that its job's constraints set.

    Args:
        takes_input: whether the first argument is the input from its pipeline, which comes when it runs.

    Raises:
        TypeError, ValueError: a key cannot be made of the call's arguments.
    """
    args, kwargs = codec.decode_arguments(row.arguments)
    if takes_input:
        args.insert(0, limits.NOT_YET)
    flags = row.flags
    columns: dict[str, Any] = {}
    limit = options.limit
    if limit is not None:
        kind = type(limit).__name__
        key = limits.key_of_call(f"the key of a {kind}", limit.key, signature, args, kwargs)
        columns.update(limit_key=key, limit_max=limit.most)
        if isinstance(limit, Limit):
            flags |= Flag.LIMITED
        else:
            flags |= Flag.RATE_LIMITED
            columns["limit_per"] = seconds("per", limit.per)
    if options.unique_key is not None:
        columns["unique_key"] = limits.key_of_call(
            "unique_key", options.unique_key, signature, args, kwargs
        )
        flags |= Flag.UNIQUE | (Flag.UNTIL_START if options.unique_until == "start" else 0)
    if options.expires_after is not None:
        flags |= Flag.EXPIRES
        due = row.created_at if row.run_after is None else max(row.run_after, row.created_at)
        columns["expires_at"] = min(
            due + seconds("expires_after", options.expires_after), END_OF_TIME
        )
    return row._replace(flags=flags, **columns)
