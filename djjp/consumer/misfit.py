"""Misfits: calls that no longer fit their function, because other code enqueued them."""

from __future__ import annotations

from typing import Any

from djjp import codec, conf
from djjp.durations import to_datetime
from djjp.engine import Claimed
from djjp.ids import made_at
from djjp.jobs import RegisteredJob
from djjp.models import Flag


def explain(error: TypeError, job: RegisteredJob[..., Any], claimed: Claimed) -> None:
    """Add to the error of a call that does not fit its function which code enqueued it."""
    try:
        args, kwargs = codec.decode_arguments(claimed.arguments)
    except ValueError:  # a row by hand
        return
    if claimed.flags & Flag.TAKES_INPUT:
        args.insert(0, None)
    if job.signature.fits(args, kwargs):
        return
    given = codec.decode_value(claimed.arguments).get("release")
    theirs = "whose DJJP['release'] was not set" if given is None else f"of release {given!r}"
    ours = conf.current().release
    here = "" if ours is None else f", which is of release {ours!r}"
    try:
        at = f" at {to_datetime(made_at(claimed.id)).isoformat(sep=' ', timespec='seconds')}"
    except (ValueError, OverflowError):  # the id of a row by hand
        at = ""
    message = (
        f"{error}; other code, {theirs}, enqueued this call{at}, and it does not fit the function "
        f"of the code here{here}"
    )
    error.args = (message,)
