"""The columns of a row that few calls need: a limit or a rate, a unique key, an expiry, options and tags."""

from __future__ import annotations

from typing import Any

from djjp import codec, limits
from djjp.durations import END_OF_TIME, seconds
from djjp.engine import NewJob
from djjp.jobs.functions import CallSignature
from djjp.jobs.options import JobOptions
from djjp.limits import Key, Limit
from djjp.models import Flag


def apply(
    options: JobOptions, signature: CallSignature, row: NewJob, *, takes_input: bool = False
) -> NewJob:
    """Return the row of a call with the columns that its job's constraints, options and tags set.

    Args:
        takes_input: whether the first argument is the input from its pipeline, which is read when the job runs.

    Raises:
        TypeError, ValueError: no key can be built from the call's arguments.
    """
    flags = row.flags
    columns: dict[str, Any] = {}
    limit = options.limit
    if limit is not None:
        option = f"the key of a {type(limit).__name__}"
        key = _key(option, limit.key, signature, row, takes_input)
        columns.update(limit_key=key, limit_max=limit.most)
        if isinstance(limit, Limit):
            flags |= Flag.LIMITED
        else:
            flags |= Flag.RATE_LIMITED
            columns["limit_per"] = seconds("per", limit.per)
    if options.unique_key is not None:
        columns["unique_key"] = _key("unique_key", options.unique_key, signature, row, takes_input)
        flags |= Flag.UNIQUE | (Flag.UNTIL_START if options.unique_until == "start" else 0)
    if options.expires_after is not None:
        flags |= Flag.EXPIRES
        due = row.created_at if row.run_after is None else max(row.run_after, row.created_at)
        columns["expires_at"] = min(
            due + seconds("expires_after", options.expires_after), END_OF_TIME
        )
    if options.row_text is not None:
        flags |= (Flag.OPTIONS if options.call else 0) | (Flag.TAGGED if options.tags else 0)
        columns["options"] = options.row_text
    return row._replace(flags=flags, **columns)


def _key(option: str, key: Key, signature: CallSignature, row: NewJob, takes_input: bool) -> str:
    """Return the key of one call."""
    args, kwargs = codec.decode_arguments(row.arguments)
    if takes_input:
        args.insert(0, limits.NOT_YET)
    try:
        return limits.key_of_call(option, key, signature, args, kwargs)
    except (TypeError, ValueError) as error:
        signature.named(error)
        raise
