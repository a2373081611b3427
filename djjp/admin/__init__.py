"""The admin of the queue: `/admin/djjp/job/`, over whichever database holds it."""

from djjp.admin.job import JobAdmin

__all__ = ["JobAdmin"]
