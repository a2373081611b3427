"""Rights: what a user may see and do in the pages of the queue."""

from __future__ import annotations

from typing import Any, NamedTuple

from django.http import HttpRequest

#: Of each right its permission.
PERMISSIONS = {
    "view": "djjp.view_job",
    "arguments": "djjp.view_arguments",
    "operate": "djjp.operate_job",
    "delete": "djjp.delete_job",
    "pause": "djjp.pause_queue",
    "view_schedule": "djjp.view_schedule",
    "change_schedule": "djjp.change_schedule",
}


class Rights(NamedTuple):
    """The rights of a user.

    Attributes:
        view: see the queue: its jobs, queues, consumers, incidents and operations.
        arguments: see the arguments, results and error texts of jobs.
        operate: retry, cancel, run, move and enqueue jobs, change their priority, make requests to consumers.
        delete: delete jobs.
        pause: pause and resume queues.
        view_schedule, change_schedule: see schedules; enable, disable and run them.
    """

    view: bool
    arguments: bool
    operate: bool
    delete: bool
    pause: bool
    view_schedule: bool
    change_schedule: bool


#: The attribute of a request that keeps its user, and the rights of that.
_READ = "_djjp_rights"

#: The rights that presuppose `view`: users who cannot see the queue cannot change it either.
_OF_VIEWERS = ("operate", "delete", "pause")


def rights_of(request: HttpRequest) -> Rights:
    """Return the rights of the user of a request, which are read once for all parts of its page."""
    user, rights = getattr(request, _READ, (None, None))
    if rights is None or user is not request.user:
        rights = _rights_of(request.user)
        setattr(request, _READ, (request.user, rights))
    return rights


def _rights_of(user: Any) -> Rights:
    held = {right: user.has_perm(permission) for right, permission in PERMISSIONS.items()}
    if not held["view"]:
        held |= dict.fromkeys(_OF_VIEWERS, False)
    return Rights(**held)
