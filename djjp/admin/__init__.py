"""The admin of the queue: `/admin/djjp/job/`, over whichever database holds it."""

from djjp.admin.job import JobAdmin
from djjp.admin.schedule import ScheduleAdmin

__all__ = ["JobAdmin", "ScheduleAdmin"]
