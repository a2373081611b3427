"""The tags of jobs."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from djjp.models.job import Job


class Tag(models.Model):
    """One tag of one job: an index of the tags in `Job.options`, by which jobs are found.

    Attributes:
        ended: True only if the job has ended; False also if it has: the row of the job decides. It keeps the
            search for the live jobs of a tag from reading all that have ended.
    """

    pk = models.CompositePrimaryKey("tag", "job_id")
    tag = models.CharField(max_length=100)
    # Without a constraint in the database, which would cost each deletion of a job a search.
    job = models.ForeignKey(
        Job, on_delete=models.CASCADE, related_name="tag_rows", db_constraint=False
    )
    ended = models.BooleanField(default=False, db_default=False)

    class Meta:
        verbose_name = _("tag")
        verbose_name_plural = _("tags")
        db_table = "djjp_tag"
        default_permissions = ()
        indexes = [
            models.Index(
                fields=["tag", "job"], condition=models.Q(ended=False), name="djjp_tag_live"
            )
        ]

    def __str__(self) -> str:
        return f"{self.tag} {self.job_id}"
