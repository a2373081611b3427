"""Failed attempts of jobs."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from djjp.models.instant import InstantField
from djjp.models.job import Job


class Attempt(models.Model):
    """One execution that failed: the exception, its traceback, and the consumer that ran it.

    All of it is text, cut to a bounded size, so that displaying a failure never runs the code of its exception.
    """

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="failures")
    number = models.PositiveIntegerField()
    consumer = models.CharField(max_length=100)
    started_at = InstantField()
    finished_at = InstantField()
    exception_class = models.CharField(max_length=200)
    message = models.TextField(blank=True)
    traceback = models.TextField(blank=True)

    class Meta:
        verbose_name = _("failed attempt")
        verbose_name_plural = _("failed attempts")
        db_table = "djjp_attempt"
        default_permissions = ()
        # The jobs by class, in the order in which lists have them.
        indexes = [models.Index(fields=["exception_class", "job"], name="djjp_attempt_class")]

    def __str__(self) -> str:
        return f"attempt {self.number} of job {self.job_id}: {self.exception_class}"
