"""Refusals: the kinds of a database's errors, and therefore what consumers and callers do about each."""

from __future__ import annotations

import errno
from enum import Enum

# This process, or the whole system, has no file descriptor left.
_NO_DESCRIPTOR = {errno.EMFILE, errno.ENFILE}


class Refusal(Enum):
    """The cause of an error."""

    #: The connection broke. Wait for a new one; what was sent last may have been written.
    LOST = "lost"
    #: The session, the server or the file refuses everything, and has written nothing. Wait for a new session.
    OUTAGE = "outage"
    #: Everything is refused for now, but the session is as good as any: the file is locked or not there, or no
    #: file descriptor is left. Wait.
    BUSY = "busy"
    #: Another transaction was preferred: a deadlock, a serialization failure. The same again can succeed at once.
    CONFLICT = "conflict"
    #: Another transaction holds a row or a lock for longer than a consumer waits. The rest can be done.
    LOCKED = "locked"
    #: These rows or values are refused, or are too many: the same again is refused again. Do it in parts.
    CONTENT = "content"

    @property
    def is_outage(self) -> bool:
        """Return whether all else would meet the same error: a consumer waits, and keeps what it must write."""
        return self in (Refusal.LOST, Refusal.OUTAGE, Refusal.BUSY)

    @property
    def keeps_session(self) -> bool:
        """Return whether the session is as good as any other: it waited for others."""
        return self in (Refusal.BUSY, Refusal.CONFLICT, Refusal.LOCKED)


def of_others(error: BaseException) -> Refusal:
    """Return the kind of an error that the database did not raise: only a lack of descriptors meets all else."""
    lacks = isinstance(error, OSError) and error.errno in _NO_DESCRIPTOR
    return Refusal.BUSY if lacks else Refusal.CONTENT
