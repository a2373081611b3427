"""Edges of pipelines."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class Dependency(models.Model):
    """An edge of a pipeline: one job that depends on another.

    Where a pipeline ends with a group, edges lead from the group's last jobs to the pipeline's own id, so that
    its handle finds their results in order.

    Attributes:
        parent: the job that must end first.
        child: the dependent job.
        result_path: where the parent's result goes in the input of the child: see `djjp.engine.result_paths`.
    """

    pk = models.CompositePrimaryKey("parent", "child")
    parent = models.UUIDField(editable=False)
    child = models.UUIDField(editable=False)
    result_path = models.TextField(blank=True)

    class Meta:
        verbose_name = _("dependency")
        verbose_name_plural = _("dependencies")
        db_table = "djjp_dependency"
        default_permissions = ()
        indexes = [models.Index(fields=["child"], name="djjp_dependency_child")]

    def __str__(self) -> str:
        return f"{self.child} waits for {self.parent}"
