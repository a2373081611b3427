"""The terms of one call: what its limit, its unique key and its expiry are, as its row says it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from djjp import codec, limits
from djjp.durations import END_OF_TIME, seconds
from djjp.engine import NewJob
from djjp.limits import Limit
from djjp.models import Flag

if TYPE_CHECKING:
    from djjp.jobs import RegisteredJob


def agreed(job: RegisteredJob[..., Any], row: NewJob, *, receives: bool = False) -> NewJob:
    """The row of a call of a job that has terms.

    Args:
        receives: whether its first argument comes only when it runs.

    Raises:
        TypeError, ValueError: a key cannot be made of the call's arguments.
    """
    args, kwargs = codec.decode_arguments(row.arguments)
    if receives:
        args.insert(0, limits.NOT_YET)
    flags = row.flags
    more: dict[str, Any] = {}
    limit = job.limit
    if limit is not None:
        kind = type(limit).__name__
        text = limits.text_of(f"the key of a {kind}", limit.key, job.signature, args, kwargs)
        more.update(limit_key=text, limit_max=limit.most)
        if isinstance(limit, Limit):
            flags |= Flag.LIMITED
        else:
            flags |= Flag.RATE_LIMITED
            more["limit_per"] = seconds("per", limit.per)
    if job.unique_key is not None:
        text = limits.text_of("unique_key", job.unique_key, job.signature, args, kwargs)
        more["unique_key"] = text
        flags |= Flag.UNIQUE | (Flag.UNTIL_START if job.unique_until == "start" else 0)
    if job.expires_after is not None:
        flags |= Flag.EXPIRES
        due = row.created_at if row.run_after is None else max(row.run_after, row.created_at)
        more["expires_at"] = min(due + seconds("expires_after", job.expires_after), END_OF_TIME)
    return row._replace(flags=flags, **more)
