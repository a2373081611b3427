"""The pages of the queue in Django's admin, over whichever database holds it.

They are on the default site as soon as this package is imported, which Django's admin does. `register()` puts
them on another one.
"""

from __future__ import annotations

from types import new_class
from typing import Any

from django.contrib import admin
from django.db.models import Model

from djjp.admin.consumers import ConsumerAdmin
from djjp.admin.incidents import IncidentAdmin
from djjp.admin.job import JobAdmin
from djjp.admin.operations import OperationAdmin
from djjp.admin.queues import QueueAdmin
from djjp.admin.schedule import ScheduleAdmin
from djjp.models import Consumer, Incident, Job, Operation, Queue, Schedule

__all__ = [
    "ConsumerAdmin",
    "IncidentAdmin",
    "JobAdmin",
    "OperationAdmin",
    "QueueAdmin",
    "ScheduleAdmin",
    "register",
]

#: Of each model the admin that has its pages.
ADMINS: dict[type[Model], type[admin.ModelAdmin[Any]]] = {
    Job: JobAdmin,
    Queue: QueueAdmin,
    Consumer: ConsumerAdmin,
    Schedule: ScheduleAdmin,
    Incident: IncidentAdmin,
    Operation: OperationAdmin,
}


def register(site: admin.AdminSite, *, base: type[admin.ModelAdmin[Any]] | None = None) -> None:
    """Put all pages of the queue on an admin site, in place of those that it may have.

    The pages of other sites stay as they are.

    Args:
        site: the site, which can have a name of its own.
        base: the `ModelAdmin` that a package for the admin's looks has its admins derive from, such as
            `unfold.admin.ModelAdmin`.
    """
    for model, admin_class in ADMINS.items():
        if site.is_registered(model):
            site.unregister(model)
        site.register(model, admin_class if base is None else _derived(admin_class, base))


def _derived(
    admin_class: type[admin.ModelAdmin[Any]], base: type[admin.ModelAdmin[Any]]
) -> type[admin.ModelAdmin[Any]]:
    """Return the admin of a model with another base class behind its own."""
    bases = (admin_class, base)
    return new_class(
        admin_class.__name__, bases, exec_body=lambda names: names.update(__module__=__name__)
    )


register(admin.site)
